import collections
import copy
import enum
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy
import pytest
import torch
import transformers
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor, Replicate, Shard
from torch.distributed.tensor.placement_types import Placement
from torch.testing._internal.distributed.fake_pg import FakeStore

from lightning_adafactor import Adafactor, TransformersAdafactor, predict_state
from lightning_adafactor.memory import StateSize, adamw_state, compute_optimizer_size, measure_state

DISTILBERT_PARAMETERS = 65_783_042
DISTILBERT_TENSORS = 104


@pytest.fixture(scope="module")
def distilbert() -> nn.Module:
    """DistilBERT's shapes with zeros for weights, and gradients of ones that take no memory."""
    config = transformers.DistilBertConfig(vocab_size=28996)
    with torch.device("meta"):
        model = transformers.DistilBertForSequenceClassification(config)
    model.to_empty(device="cpu")
    for parameter in model.parameters():
        parameter.data.zero_()
        parameter.grad = torch.ones(()).expand_as(parameter)
    return model


PUBLISHED_TABLE = [
    pytest.param(torch.optim.AdamW, 131_566_188, 501.89, 502, id="AdamW"),
    pytest.param(transformers.Adafactor, 178_504 + 104 + 104, 0.68, 1, id="transformers.Adafactor"),
    pytest.param(torch.optim.Adafactor, 178_504 + 104, 0.68, 1, id="torch.optim.Adafactor"),
    pytest.param(Adafactor, 178_504 + 104, 0.68, 1, id="Adafactor"),
    pytest.param(TransformersAdafactor, 178_504 + 104 + 104, 0.68, 1, id="TransformersAdafactor"),
]


@pytest.mark.parametrize(("optimizer_class", "elements", "megabytes", "rounded"), PUBLISHED_TABLE)
def test_published_table_is_reproduced_on_distilbert(
    distilbert: nn.Module,
    optimizer_class: Callable[..., torch.optim.Optimizer],
    elements: int,
    megabytes: float,
    rounded: int,
) -> None:
    optimizer = optimizer_class(distilbert.parameters())
    optimizer.step()

    total_size_megabytes, total_num_elements = compute_optimizer_size(optimizer.state.values())

    assert total_num_elements == elements
    assert (round(total_size_megabytes, 2), round(total_size_megabytes)) == (megabytes, rounded)


def test_adamw_state_of_distilbert_is_known_from_its_shapes_alone(distilbert: nn.Module) -> None:
    on_meta = copy.deepcopy(distilbert).to("meta")

    size = adamw_state(on_meta.parameters())

    assert size == adamw_state(distilbert.parameters())
    assert size.elements == 2 * DISTILBERT_PARAMETERS + DISTILBERT_TENSORS == 131_566_188
    assert size.bytes == 4 * size.elements
    assert round(size.megabytes, 2) == 501.89


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64, torch.complex64], ids=str)
def test_adamw_state_equals_that_of_a_stepped_adamw(dtype: torch.dtype) -> None:
    parameters = [nn.Parameter(torch.ones(shape, dtype=dtype)) for shape in [(3, 5), (7,), (), (0, 4)]]
    frozen = nn.Parameter(torch.ones(100), requires_grad=False)
    for parameter in parameters:
        parameter.grad = torch.ones_like(parameter)
    optimizer = torch.optim.AdamW([*parameters, frozen])
    optimizer.step()

    assert adamw_state([*parameters, frozen]) == measure_state(optimizer.state.values())


def test_adamw_state_counts_a_parameter_given_twice_once() -> None:
    tied = nn.Parameter(torch.ones(10))

    assert adamw_state([tied, tied]) == StateSize(elements=21, bytes=84)


def test_optimizer_has_no_size_before_its_first_step() -> None:
    optimizer = torch.optim.AdamW([nn.Parameter(torch.ones(3))])

    assert compute_optimizer_size(optimizer.state.values()) == (0.0, 0)


def test_optimizer_without_state_has_no_size_after_a_step() -> None:
    parameter = nn.Parameter(torch.ones(3))
    parameter.grad = torch.ones(3)
    optimizer = torch.optim.SGD([parameter])
    optimizer.step()

    assert compute_optimizer_size(optimizer.state.values()) == (0.0, 0)


def test_megabytes_are_mebibytes() -> None:
    megabytes, _ = compute_optimizer_size([{"exp_avg": torch.zeros(2**20)}])

    assert megabytes == 4.0
    assert StateSize(elements=1, bytes=2**19).megabytes == 0.5


@pytest.mark.parametrize("number", [3, 0.5, 2**40])
def test_python_number_is_one_element_of_eight_bytes(number: float) -> None:
    assert measure_state([{"step": number}, {"step": number}]) == StateSize(elements=2, bytes=16)


class Mode(enum.IntEnum):
    FACTORED = 1


@pytest.mark.parametrize("setting", [None, True, "factored", b"factored", Mode.FACTORED, nn.Linear, len, print])
def test_setting_in_the_state_does_not_count(setting: object) -> None:
    assert measure_state([{"setting": setting}]) == StateSize(elements=0, bytes=0)


def test_mapping_of_states_stands_for_its_values() -> None:
    parameter = nn.Parameter(torch.ones(1000))
    parameter.grad = torch.ones(1000)
    optimizer = torch.optim.SGD([parameter], momentum=0.9)
    optimizer.step()

    assert measure_state(optimizer.state) == StateSize(elements=1000, bytes=4000)
    assert measure_state(optimizer.state_dict()["state"]) == StateSize(elements=1000, bytes=4000)


@dataclass
class Factors:
    row: torch.Tensor
    column: torch.Tensor
    steps: int = 0
    history: list[torch.Tensor] = field(default_factory=list)


class Preconditioner:
    def __init__(self) -> None:
        self.name = "block"
        self.inverse = torch.zeros(3, 3)


@dataclass
class SlottedFields:
    __slots__ = ("moment",)
    moment: torch.Tensor


class Slotted:
    __slots__ = ("empty", "moment")

    def __init__(self, moment: torch.Tensor) -> None:
        self.moment = moment


class Cycle:
    def __init__(self) -> None:
        self.myself = self
        self.moment = torch.zeros(6)


@pytest.mark.parametrize(
    ("nested", "elements"),
    [
        ({"inner": {"deeper": {"moment": torch.zeros(6)}}}, 6),
        ([torch.zeros(2), [torch.zeros(3), (torch.zeros(4),)]], 9),
        (collections.deque([torch.zeros(2), torch.zeros(3)]), 5),
        ({torch.zeros(2), torch.zeros(3)}, 5),
        (collections.OrderedDict(a=torch.zeros(2)), 2),
        (Factors(torch.zeros(2), torch.zeros(3), 7, [torch.zeros(4)]), 10),
        (SlottedFields(torch.zeros(5)), 5),
        (Slotted(torch.zeros(5)), 5),
        ({"history": numpy.zeros((3, 2), dtype=numpy.float32)}, 6),
        (numpy.array(["a", "b"]), 0),
        (Preconditioner(), 9),
        (Cycle(), 6),
    ],
    ids=lambda value: type(value).__name__,
)
def test_tensors_are_found_in(nested: object, elements: int) -> None:
    numbers = 1 if isinstance(nested, Factors) else 0
    expected = StateSize(elements, bytes=4 * (elements - numbers) + 8 * numbers)

    assert measure_state([{"nested": nested}]) == expected


def test_tensor_and_its_views_in_one_state_count_once() -> None:
    moment = torch.zeros(4, 6)
    state = {"moment": moment, "again": moment, "flat": moment.view(-1), "transposed": moment.T}

    assert measure_state([state]) == StateSize(elements=24, bytes=96)


def test_slices_of_one_buffer_count_all_their_elements_and_the_buffer_once() -> None:
    buffer = torch.zeros(100)
    states = [{"row": buffer[:10], "column": buffer[10:40]}, {"row": buffer[40:70], "column": buffer[70:]}]

    assert measure_state(states) == StateSize(elements=100, bytes=400)


def test_view_keeps_its_whole_storage_allocated() -> None:
    assert measure_state([{"moment": torch.zeros(1000)[:1]}]) == StateSize(elements=1, bytes=4000)


def test_buffer_shared_by_parameters_is_in_the_elements_of_each_and_in_the_bytes_once() -> None:
    quantization_map = torch.zeros(256)
    states = [{"moment": torch.zeros(8, dtype=torch.uint8), "map": quantization_map} for _ in range(3)]

    assert measure_state(states) == StateSize(elements=3 * (8 + 256), bytes=3 * 8 + 256 * 4)


def test_same_number_in_two_states_is_two_elements() -> None:
    assert measure_state([{"step": 7, "total": 7}, {"step": 7}]).elements == 3


def test_tensors_of_different_dtypes_take_their_own_bytes() -> None:
    state = {"low": torch.zeros(10, dtype=torch.bfloat16), "high": torch.zeros(10, dtype=torch.float64)}

    assert measure_state([state]) == StateSize(elements=20, bytes=100)


def test_meta_tensors_count_like_real_ones() -> None:
    state = {"row": torch.empty(10, device="meta"), "column": torch.empty(20, device="meta")}

    assert measure_state([state]) == StateSize(elements=30, bytes=120)


@pytest.mark.filterwarnings("ignore:Sparse CSC tensor support is in beta")
def test_sparse_tensors_count_as_their_indices_and_values() -> None:
    indices, values = torch.arange(4), torch.ones(4)
    coo = torch.sparse_coo_tensor(torch.stack([indices, indices]), values, size=(4, 100), check_invariants=True)
    csc = torch.sparse_csc_tensor(torch.arange(5), indices, values, size=(4, 4), check_invariants=True)

    assert measure_state([{"coo": coo}]) == StateSize(elements=8 + 4, bytes=8 * 8 + 4 * 4)
    assert measure_state([{"csc": csc}]) == StateSize(elements=5 + 4 + 4, bytes=9 * 8 + 4 * 4)


class Quantized(torch.Tensor):
    """An 8-bit state the way torchao wraps one: looks like fp32, holds codes, scales and a map."""

    codes: torch.Tensor
    scale: torch.Tensor

    @staticmethod
    def __new__(cls, codes: torch.Tensor, scale: torch.Tensor) -> "Quantized":
        return torch.Tensor._make_wrapper_subclass(cls, codes.shape, dtype=torch.float32)

    def __init__(self, codes: torch.Tensor, scale: torch.Tensor) -> None:
        self.codes = codes
        self.scale = scale

    def __tensor_flatten__(self) -> tuple[list[str], None]:
        return ["codes", "scale"], None

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        raise AssertionError(f"counting must not compute anything, but it called {func}")


def quantized(n: int) -> Quantized:
    return Quantized(torch.zeros(n, dtype=torch.uint8), torch.zeros(n // 256))


def test_wrapped_tensor_has_the_elements_of_its_shape_and_the_bytes_inside() -> None:
    assert measure_state([{"moment": quantized(1024)}]) == StateSize(elements=1024, bytes=1024 + 4 * 4)


def test_wrapped_tensor_inside_a_wrapped_tensor_is_followed_to_the_bytes() -> None:
    nested = Quantized(torch.zeros(1024, dtype=torch.uint8), quantized(256))

    assert measure_state([{"moment": nested}]) == StateSize(elements=1024, bytes=1024 + 256 + 4)


@pytest.fixture
def four_ranks() -> Iterator[None]:
    torch.distributed.init_process_group("fake", store=FakeStore(), rank=0, world_size=4)
    yield
    torch.distributed.destroy_process_group()


@pytest.mark.usefixtures("four_ranks")
def test_sharded_state_counts_as_this_ranks_shard() -> None:
    mesh = init_device_mesh("cpu", (4,))
    shard = torch.zeros(25, 8)
    moment = DTensor.from_local(shard, mesh, [Shard(0)], run_check=False)
    parameter = nn.Parameter(moment)

    assert moment.shape == (100, 8)
    assert measure_state([{"moment": moment, "step": torch.zeros(())}]) == StateSize(elements=201, bytes=804)
    assert adamw_state([parameter]) == StateSize(elements=401, bytes=1604)


@pytest.mark.usefixtures("four_ranks")
def test_total_of_sharded_state_counts_the_whole_and_replicas_once() -> None:
    mesh = init_device_mesh("cpu", (2, 2))
    sharded = DTensor.from_local(torch.zeros(50, 8), mesh, [Replicate(), Shard(0)], run_check=False)
    replicated = DTensor.from_local(torch.zeros(3, 5), mesh, [Replicate(), Replicate()], run_check=False)
    state = {"moment": sharded, "other": replicated, "step": torch.zeros(())}

    assert measure_state([state]) == StateSize(elements=400 + 15 + 1, bytes=4 * 416)
    assert measure_state([state], total=True) == StateSize(elements=800 + 15 + 1, bytes=4 * 816)
    assert compute_optimizer_size([state], total=True) == (4 * 816 / 2**20, 816)
    assert adamw_state([nn.Parameter(sharded)], total=True) == StateSize(elements=1601, bytes=6404)


@pytest.mark.usefixtures("four_ranks")
def test_total_of_unsharded_state_is_this_processs() -> None:
    state = [{"moment": torch.zeros(3), "step": 2}]
    assert measure_state(state, total=True) == measure_state(state) == StateSize(elements=4, bytes=20)


@pytest.mark.usefixtures("four_ranks")
@pytest.mark.parametrize(
    ("placement", "local", "whole"),
    [(Shard(0), 25 + 8 + 1, 100 + 8 + 1), (Shard(1), 100 + 2 + 1, 100 + 8 + 1), (Replicate(), 109, 109)],
    ids=str,
)
def test_state_of_a_sharded_matrix_is_sharded_along_with_it(placement: Placement, local: int, whole: int) -> None:
    mesh = init_device_mesh("cpu", (4,))
    values = torch.zeros(100, 8).chunk(4, placement.dim)[0] if placement.is_shard() else torch.zeros(100, 8)
    param = nn.Parameter(DTensor.from_local(values, mesh, [placement], run_check=False))
    optimizer = Adafactor([param])
    param.grad = torch.zeros_like(param)
    optimizer.step()

    assert measure_state(optimizer.state) == StateSize(local, 4 * local)
    assert measure_state(optimizer.state, total=True) == StateSize(whole, 4 * whole)
    assert predict_state(Adafactor, [{"params": [param]}]) == StateSize(local, 4 * local)


@pytest.mark.usefixtures("four_ranks")
def test_total_of_sharded_8bit_state_counts_the_bytes_of_all_shards() -> None:
    mesh = init_device_mesh("cpu", (4,))
    moment = DTensor.from_local(torch.zeros(1024), mesh, [Shard(0)], run_check=False)
    moment._local_tensor = quantized(1024)

    assert measure_state([{"moment": moment}], total=True) == StateSize(elements=4096, bytes=4 * (1024 + 4 * 4))


@pytest.mark.usefixtures("four_ranks")
def test_sharded_8bit_state_counts_the_bytes_inside_this_ranks_shard() -> None:
    mesh = init_device_mesh("cpu", (4,))
    moment = DTensor.from_local(torch.zeros(1024), mesh, [Shard(0)], run_check=False)
    moment._local_tensor = quantized(1024)

    assert measure_state([{"moment": moment}]) == StateSize(elements=1024, bytes=1024 + 4 * 4)
