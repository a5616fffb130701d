"""A gRPC server and a client that checks every kind of call through a gateway. Messages are bytes.

grpc_peers.py serve ADDRESS
grpc_peers.py call ADDRESS AUTHORITY
"""
import sys
import threading
import time
from concurrent import futures

import grpc

CANCELLED = threading.Event()
# as Tidegate takes: 32 KiB of headers in all
LARGE = ("x-large-bin", bytes(range(256)) * 64)
OPTIONS = [("grpc.max_metadata_size", 64 << 10), ("grpc.absolute_max_metadata_size", 128 << 10)]


def unary(request, context):
    assert ("x-client", "python") in [(k, v) for k, v in context.invocation_metadata()]
    context.send_initial_metadata((("x-initial", "1"),))
    context.set_trailing_metadata((("x-trailing", "2"),))
    return request[::-1]


def metadata(request, context):
    assert LARGE in [(k, v) for k, v in context.invocation_metadata()]
    context.send_initial_metadata((LARGE,))
    context.set_trailing_metadata((LARGE,))
    return b""


def download(request, context):
    for i in range(int(request)):
        yield b"%d" % i


def upload(requests, context):
    return b"%d" % sum(len(r) for r in requests)


def chat(requests, context):
    for request in requests:
        yield b"echo " + request


def fail(request, context):
    # before any message: the status comes with the head
    context.abort(grpc.StatusCode.NOT_FOUND, "nothing \u00e4nywhere")


def hang(request, context):
    context.add_callback(CANCELLED.set)
    yield b"begun"
    while context.is_active():
        time.sleep(0.01)


def was_cancelled(request, context):
    return b"yes" if CANCELLED.wait(5) else b"no"


def serve(address):
    server = grpc.server(
        futures.ThreadPoolExecutor(max_workers=16), options=[*OPTIONS, ("grpc.max_concurrent_streams", 4)])
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("test.Peer", {
        "Unary": grpc.unary_unary_rpc_method_handler(unary),
        "Metadata": grpc.unary_unary_rpc_method_handler(metadata),
        "Download": grpc.unary_stream_rpc_method_handler(download),
        "Upload": grpc.stream_unary_rpc_method_handler(upload),
        "Chat": grpc.stream_stream_rpc_method_handler(chat),
        "Fail": grpc.unary_unary_rpc_method_handler(fail),
        "Hang": grpc.unary_stream_rpc_method_handler(hang),
        "WasCancelled": grpc.unary_unary_rpc_method_handler(was_cancelled),
    }),))
    assert server.add_insecure_port(address), f"cannot listen on {address}"
    server.start()
    print("serving", flush=True)
    server.wait_for_termination()


def status_of(call):
    try:
        call()
    except grpc.RpcError as e:
        return e.code(), e.details()
    raise AssertionError("the call did not fail")


def call(address, authority):
    options = [*OPTIONS, ("grpc.default_authority", authority)]
    with grpc.insecure_channel(address, options=options) as channel:
        reply, ended = channel.unary_unary("/test.Peer/Unary").with_call(
            b"abc", metadata=(("x-client", "python"),), timeout=10)
        assert reply == b"cba", reply
        assert ("x-initial", "1") in [(k, v) for k, v in ended.initial_metadata()]
        assert ("x-trailing", "2") in [(k, v) for k, v in ended.trailing_metadata()]
        large = bytes(3 << 20)
        assert channel.unary_unary("/test.Peer/Unary")(
            large, metadata=(("x-client", "python"),), timeout=10) == large

        _, ended = channel.unary_unary("/test.Peer/Metadata").with_call(b"", metadata=(LARGE,), timeout=10)
        assert LARGE in [(k, v) for k, v in ended.initial_metadata()]
        assert LARGE in [(k, v) for k, v in ended.trailing_metadata()]
        # more than that is refused, and the connection goes on
        failed = status_of(lambda: channel.unary_unary("/test.Peer/Metadata")(
            b"", metadata=(LARGE, LARGE), timeout=10))
        assert failed[0] != grpc.StatusCode.DEADLINE_EXCEEDED, failed

        # more at once than a connection to the server takes
        calls = [channel.unary_unary("/test.Peer/Unary").future(
            b"%d" % i, metadata=(("x-client", "python"),), timeout=10) for i in range(50)]
        assert [c.result() for c in calls] == [(b"%d" % i)[::-1] for i in range(50)]

        replies = list(channel.unary_stream("/test.Peer/Download")(b"1000", timeout=10))
        assert replies == [b"%d" % i for i in range(1000)], len(replies)

        pieces = (bytes(1000) for _ in range(1000))
        assert channel.stream_unary("/test.Peer/Upload")(pieces, timeout=10) == b"1000000"

        # each message is sent only after the answer to the one before
        asked = threading.Semaphore(0)

        def messages():
            for i in range(100):
                asked.acquire()
                yield b"%d" % i

        replies = channel.stream_stream("/test.Peer/Chat")(messages(), timeout=10)
        for i in range(100):
            asked.release()
            assert next(replies) == b"echo %d" % i
        assert list(replies) == []

        failed = status_of(lambda: channel.unary_unary("/test.Peer/Fail")(b"", timeout=10))
        assert failed == (grpc.StatusCode.NOT_FOUND, "nothing \u00e4nywhere"), failed
        # from the upstream's library: no such method
        failed = status_of(lambda: channel.unary_unary("/test.Peer/Nothing")(b"", timeout=10))
        assert failed[0] == grpc.StatusCode.UNIMPLEMENTED, failed

        hanging = channel.unary_stream("/test.Peer/Hang")(b"", timeout=10)
        assert next(hanging) == b"begun"
        hanging.cancel()
        assert channel.unary_unary("/test.Peer/WasCancelled")(b"", timeout=10) == b"yes"

        late = channel.unary_stream("/test.Peer/Hang")(b"", timeout=0.3)
        failed = status_of(lambda: list(late))
        assert failed[0] == grpc.StatusCode.DEADLINE_EXCEEDED, failed

    # from the gateway itself: 404 of no route, 503 of no endpoint
    for host, code in (("nowhere.example", grpc.StatusCode.UNIMPLEMENTED),
                       ("down.example", grpc.StatusCode.UNAVAILABLE)):
        with grpc.insecure_channel(address, options=[("grpc.default_authority", host)]) as channel:
            failed = status_of(lambda: channel.unary_unary("/test.Peer/Unary")(b"", timeout=10))
            assert failed[0] == code, (host, failed)
    print("all calls are well")


if __name__ == "__main__":
    {"serve": serve, "call": call}[sys.argv[1]](*sys.argv[2:])
