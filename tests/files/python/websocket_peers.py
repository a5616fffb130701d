"""WebSocket servers that echo, and clients that check thousands of messages through a gateway.

websocket_peers.py serve http1 HOST PORT      websockets, HTTP/1.1
websocket_peers.py serve http2 HOST PORT      Hypercorn, HTTP/2 by prior knowledge
websocket_peers.py call http1 HOST PORT AUTHORITY MESSAGES     websockets
websocket_peers.py call http2 HOST PORT AUTHORITY MESSAGES     Niquests, extended CONNECT
"""
import asyncio
import socket
import sys


def message(i):
    text = f"message {i} " + "x" * (i % 300)
    return text if i % 2 else text.encode()


async def echo(peer):
    async for received in peer:
        await peer.send(received)


async def app(scope, receive, send):
    assert scope["type"] == "websocket" and scope["http_version"] == "2", scope
    await receive()
    await send({"type": "websocket.accept"})
    while (event := await receive())["type"] == "websocket.receive":
        await send({"type": "websocket.send", "bytes": event.get("bytes"), "text": event.get("text")})


async def serve(version, host, port):
    if version == "http1":
        from websockets.asyncio.server import serve as listen

        async with listen(echo, host, int(port)) as server:
            print("serving", flush=True)
            await server.serve_forever()
    else:
        from hypercorn.asyncio import serve as listen
        from hypercorn.config import Config

        listening = socket.create_server((host, int(port)))
        config = Config()
        config.bind = [f"fd://{listening.fileno()}"]
        config.websocket_max_message_size = 1 << 20
        print("serving", flush=True)
        await listen(app, config)


async def call_http1(host, port, authority, messages):
    from websockets.asyncio.client import connect

    async with connect(f"ws://{authority}/socket", host=host, port=int(port), proxy=None) as peer:
        async def send():
            for i in range(messages):
                await peer.send(message(i))

        sending = asyncio.create_task(send())
        for i in range(messages):
            received = await asyncio.wait_for(peer.recv(), 10)
            assert received == message(i), (i, received)
        await sending
        await peer.send(bytes(500_000))
        assert await asyncio.wait_for(peer.recv(), 10) == bytes(500_000)
    assert peer.close_code == 1000, peer.close_code


def call_http2(host, port, authority, messages):
    import niquests

    with niquests.Session(disable_http1=True, disable_http3=True) as session:
        response = session.get(
            f"ws+rfc8441://{host}:{port}/socket", headers={"Host": authority}, timeout=10)
        assert (response.status_code, response.http_version) == (200, 20), response
        peer = response.extension
        for i in range(messages):
            peer.send_payload(message(i))
            received = peer.next_payload()
            assert received == message(i), (i, received)
        peer.send_payload(bytes(500_000))
        assert peer.next_payload() == bytes(500_000)
        peer.close()


def call(version, host, port, authority, messages):
    if version == "http1":
        asyncio.run(call_http1(host, port, authority, int(messages)))
    else:
        call_http2(host, port, authority, int(messages))
    print("all messages are well")


if __name__ == "__main__":
    if sys.argv[1] == "serve":
        asyncio.run(serve(*sys.argv[2:]))
    else:
        call(*sys.argv[2:])
