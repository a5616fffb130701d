"""A WebSocket server that echoes, and a client that checks 10,000 messages through a gateway.

websocket_peers.py serve HOST PORT
websocket_peers.py call HOST PORT AUTHORITY
"""
import asyncio
import sys

from websockets.asyncio.client import connect
from websockets.asyncio.server import serve as listen

MESSAGES = 10_000


def message(i):
    text = f"message {i} " + "x" * (i % 300)
    return text if i % 2 else text.encode()


async def echo(socket):
    async for received in socket:
        await socket.send(received)


async def serve(host, port):
    async with listen(echo, host, int(port)) as server:
        print("serving", flush=True)
        await server.serve_forever()


async def call(host, port, authority):
    async with connect(f"ws://{authority}/socket", host=host, port=int(port), proxy=None) as socket:
        async def send():
            for i in range(MESSAGES):
                await socket.send(message(i))

        sending = asyncio.create_task(send())
        for i in range(MESSAGES):
            received = await asyncio.wait_for(socket.recv(), 10)
            assert received == message(i), (i, received)
        await sending
        await socket.send(bytes(500_000))
        assert await asyncio.wait_for(socket.recv(), 10) == bytes(500_000)
    assert socket.close_code == 1000, socket.close_code
    print("all messages are well")


if __name__ == "__main__":
    asyncio.run({"serve": serve, "call": call}[sys.argv[1]](*sys.argv[2:]))
