"""What holds for every model, GPU and request."""

from hypothesis import given
from hypothesis import strategies as st

from mii_spec.model_facts import ModelFacts
from mii_spec.sizing import GIB, Choice, GpuFacts, Refusal, Request, choose, divides, needed_bytes


@st.composite
def models(draw):
    kv_heads = draw(st.integers(1, 16))
    head_dim = draw(st.sampled_from([64, 80, 96, 128, 256]))
    heads = kv_heads * draw(st.integers(1, 16))
    return ModelFacts(
        heads=heads,
        kv_heads=kv_heads,
        layers=draw(st.integers(1, 128)),
        head_dim=head_dim,
        hidden=heads * head_dim,
        parameter_bytes=draw(st.integers(10**6, 10**12)),
        max_position=draw(st.sampled_from([2048, 8192, 131072])),
        dtype_bytes=draw(st.sampled_from([2, 4])),
    )


memories = st.integers(4, 200).map(lambda gib: gib * GIB)
nodes = st.sampled_from([1, 2, 4, 8, 16])
widths_or_auto = st.none() | st.integers(1, 16)
requests = st.builds(
    Request,
    gpus=st.none(),
    tensor_parallel=widths_or_auto,
    kv_memory_fraction=st.floats(0.1, 1),
    max_model_len=st.none() | st.integers(1, 100_000),
)


@given(models(), memories, nodes, requests)
def test_a_choice_divides_the_heads_and_fits(model, memory, per_node, request_):
    choice = choose(model, GpuFacts(memory_bytes=memory, per_node=per_node), request_)
    if isinstance(choice, Choice):
        assert model.heads % choice.tensor_parallel == 0
        assert divides(model, choice.tensor_parallel)
        assert needed_bytes(model, request_, choice.tensor_parallel) <= memory
        assert choice.gpus == choice.tensor_parallel


@given(models(), memories, nodes, requests)
def test_explicit_is_taken_or_refused(model, memory, per_node, request_):
    choice = choose(model, GpuFacts(memory_bytes=memory, per_node=per_node), request_)
    if isinstance(choice, Choice) and request_.tensor_parallel is not None:
        assert choice.tensor_parallel == request_.tensor_parallel
    if isinstance(choice, Refusal):
        assert choice.message
        assert (choice.reason == "InvalidParallelism") == (
            request_.tensor_parallel is not None and not divides(model, request_.tensor_parallel)
        )


@given(models(), memories, st.integers(0, 200), nodes, requests)
def test_more_memory_never_needs_more_gpus(model, memory, more, per_node, request_):
    small = choose(model, GpuFacts(memory_bytes=memory, per_node=per_node), request_)
    large = choose(model, GpuFacts(memory_bytes=memory + more * GIB, per_node=per_node), request_)
    if isinstance(small, Choice):
        assert isinstance(large, Choice)
        assert large.tensor_parallel <= small.tensor_parallel


@given(models(), memories, nodes)
def test_auto_is_the_smallest_explicit_width_that_is_taken(model, memory, per_node):
    gpu = GpuFacts(memory_bytes=memory, per_node=per_node)
    taken = [w for w in range(1, per_node + 1) if isinstance(choose(model, gpu, Request(gpus=w)), Choice)]
    auto = choose(model, gpu, Request())
    assert (auto.tensor_parallel if isinstance(auto, Choice) else None) == (taken[0] if taken else None)
