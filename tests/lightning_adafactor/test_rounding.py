"""Stochastic rounding: the published random numbers, the right mean, and reproducible bits."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from lightning_adafactor import Adafactor, plain
from lightning_adafactor.rounding import philox, random_bits, round_stochastically
from lightning_adafactor.tiles import Grid, Region

ONES = 0xFFFFFFFF


@pytest.mark.parametrize(
    ("key", "counter", "expected"),
    [
        ((0, 0), (0, 0, 0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
        ((ONES, ONES), (ONES, ONES, ONES, ONES), (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
        (
            (0xA4093822, 0x299F31D0),
            (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
            (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
        ),
    ],
    ids=["zeros", "ones", "pi"],
)
def test_philox_gives_the_known_answers_of_random123(
    key: tuple[int, int], counter: tuple[int, ...], expected: tuple[int, ...]
) -> None:
    words = philox(key[0] | key[1] << 32, [torch.tensor(word) for word in counter])

    assert [word.item() for word in words] == list(expected)


def bits_of(shape: tuple[int, ...], limit: int, seed: int = 3, step: int = 5, parameter: int = 2) -> Tensor:
    """The random bits of a whole parameter, computed tile by tile."""
    grid, whole = Grid(shape, limit), torch.full(shape, -1, dtype=torch.int32)
    for number, tile in enumerate(grid.split(whole)):
        tile.copy_(random_bits(seed, grid, number, tile, step=step, parameter=parameter))
    return whole


@pytest.mark.parametrize(
    ("shape", "starts", "sizes"),
    [
        ((70,), (13,), (40,)),
        ((5, 20), (2, 0), (3, 20)),
        ((5, 20), (0, 7), (5, 6)),
        ((3, 4, 30), (1, 2, 11), (2, 2, 17)),
    ],
)
def test_bits_of_a_shard_are_those_of_its_elements_in_the_whole(
    shape: tuple[int, ...], starts: tuple[int, ...], sizes: tuple[int, ...]
) -> None:
    whole, grid = bits_of(shape, limit=10_000), Grid(sizes, 10_000)
    region = Region(shape, starts)
    (tile,) = grid.split(torch.zeros(sizes))
    bits = random_bits(3, grid, 0, tile, step=5, parameter=2, region=region)
    part = tuple(slice(start, start + size) for start, size in zip(starts, sizes, strict=True))
    assert torch.equal(bits, whole[part])


@pytest.mark.parametrize("shape", [(), (1,), (70,), (5, 20), (40, 3), (3, 4, 10), (2, 3, 3, 3)])
def test_bits_follow_from_position_step_parameter_and_seed(shape: tuple[int, ...]) -> None:
    """Element by element, as the module documents it."""
    seed, step, parameter = 2**40 + 7, 5, 2
    bits = bits_of(shape, limit=10_000, seed=seed, step=step, parameter=parameter)
    rows = bits.reshape(-1, shape[-1] if shape else 1)

    for row in range(rows.shape[0]):
        for column in range(rows.shape[1]):
            counter = [torch.tensor(word) for word in (column // 8, row, step, parameter)]
            word = philox(seed, counter)[column % 8 // 2].item()
            assert rows[row, column].item() == (word >> 16 if column % 2 else word & 0xFFFF)


@pytest.mark.parametrize("shape", [(70,), (5, 40), (40, 3), (3, 4, 24), (2, 3, 3, 3)])
@pytest.mark.parametrize("limit", [8, 16, 64])
def test_bits_do_not_depend_on_the_tiles(shape: tuple[int, ...], limit: int) -> None:
    assert torch.equal(bits_of(shape, limit), bits_of(shape, 10_000))


@pytest.mark.parametrize(
    "changed",
    [{"seed": 4}, {"seed": 3 + 2**32}, {"step": 6}, {"parameter": 3}],
    ids=["seed", "key", "step", "parameter"],
)
def test_bits_differ_by_seed_step_and_parameter(changed: dict[str, int]) -> None:
    one, other = bits_of((20, 50), 10_000), bits_of((20, 50), 10_000, **changed)

    assert (one == other).float().mean() < 0.01


def test_bits_are_uniform() -> None:
    bits = bits_of((512, 1024), 1_000_000)
    counts = torch.bincount(bits.flatten() >> 8, minlength=256).double()
    expected = bits.numel() / 256
    chi_square = ((counts - expected) ** 2 / expected).sum().item()

    assert bits.min() >= 0
    assert bits.max() < 2**16
    # 255 degrees of freedom: mean 255, standard deviation √510
    assert abs(chi_square - 255) < 5 * math.sqrt(510)
    # neighbors know nothing of each other
    normal = (bits.double() - 32767.5) / (65536 / math.sqrt(12))
    for shifted in (normal.roll(1, 0), normal.roll(1, 1), normal.roll(8, 1)):
        assert abs((normal * shifted).mean().item()) < 5 / math.sqrt(bits.numel())


@pytest.mark.parametrize("value", [1.0 + 2**-9, 1.0 + 2**-7 / 3, -3.3e-5, 1e-40, 7.7e30])
def test_mean_of_many_roundings_is_the_number(value: float) -> None:
    values = torch.full((256, 1024), value)
    exact = values[0, 0].double().item()
    rounded = round_stochastically(values, bits_of((256, 1024), 1_000_000)).double()
    below, above = sorted({*rounded.flatten().tolist()})

    assert below < exact < above
    assert torch.equal(rounded.float().bfloat16().float(), rounded.float())
    probability = (exact - below) / (above - below)
    deviation = math.sqrt(probability * (1 - probability) / rounded.numel())
    assert (rounded == above).double().mean().item() == pytest.approx(probability, abs=5 * deviation)


def test_probability_of_rounding_away_from_zero_is_the_fraction() -> None:
    """Over all 2^16 random numbers, f·2^16 of them."""
    every = torch.arange(2**16, dtype=torch.int32)
    for fraction in (0, 1, 2**15, 2**16 - 1):
        for sign in (0, -(2**31)):
            bits = sign | 0x3F80 << 16 | fraction
            values = torch.full((2**16,), bits if bits < 2**31 else bits - 2**32, dtype=torch.int32).view(torch.float32)
            away = round_stochastically(values.clone(), every).abs() > 1.0
            assert away.sum().item() == fraction


def test_representable_numbers_stay_unchanged() -> None:
    values = torch.randn(4096).bfloat16().float()
    bits = torch.randint(0, 2**16, (4096,), dtype=torch.int32)

    assert torch.equal(round_stochastically(values.clone(), bits), values)


def test_infinities_and_nan_stay_unchanged() -> None:
    values = torch.tensor([math.inf, -math.inf, math.nan, 0.0, -0.0, torch.finfo(torch.float32).max])
    rounded = round_stochastically(values.clone(), torch.full((6,), 2**16 - 1, dtype=torch.int32))

    assert rounded[:2].tolist() == [math.inf, -math.inf]
    assert rounded[2].isnan()
    assert rounded[3:5].tolist() == [0.0, 0.0]
    assert rounded[3:5].signbit().tolist() == [False, True]
    assert rounded[5] == math.inf  # lies above bfloat16's largest, and rounds to infinity as under round-to-nearest


# In the optimizer --------------------------------------------------------------------------------------------------

SHAPES = [(64,), (5, 40), (40, 3), (3, 4, 24), ()]


def stepped(steps: int = 3, **options: object) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    params = [nn.Parameter(torch.randn(shape, generator=generator).bfloat16()) for shape in SHAPES]
    optimizer = Adafactor(params, lr=1e-3, scale_parameter=False, relative_step=False, **options)
    for _ in range(steps):
        for param in params:
            param.grad = torch.randn(param.shape, generator=generator).bfloat16()
        optimizer.step()
    return [param.detach() for param in params]


@pytest.mark.usefixtures("path")
def test_equal_seeds_give_equal_bits() -> None:
    torch.manual_seed(1)
    one = stepped()
    torch.manual_seed(2)
    torch.testing.assert_close(stepped(), one, rtol=0, atol=0)


def test_equal_parameters_of_one_optimizer_are_rounded_differently(path: str) -> None:
    params = [torch.ones(64, 64, dtype=torch.bfloat16).requires_grad_() for _ in range(2)]
    for param in params:
        param.grad = torch.ones_like(param)
    optimizer = Adafactor(params, lr=1e-3, scale_parameter=False, relative_step=False)
    optimizer.step()

    assert {choice.path for choice in optimizer.implementation().values()} == {path}
    assert not torch.equal(*params)


@pytest.mark.usefixtures("path")
def test_another_seed_rounds_differently() -> None:
    one, other = stepped(), stepped(seed=1)

    assert all((a != b).any() for a, b in zip(one[:-1], other[:-1], strict=True))
    torch.testing.assert_close(one, other, rtol=2**-5, atol=2**-8)


def test_tiles_do_not_change_the_rounding(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where sums are the same: without clipping or scaling, each element knows only its row, column and bits."""
    param = nn.Parameter(torch.randn(16, 64).bfloat16())
    other = nn.Parameter(param.detach().clone())
    for tensor, tile_bytes in ((param, plain.TILE_BYTES), (other, 2048)):
        monkeypatch.setattr(plain, "TILE_BYTES", tile_bytes)
        tensor.grad = torch.ones_like(tensor)
        Adafactor([tensor], lr=1e-3, scale_parameter=False, relative_step=False, compiled=False).step()

    assert (param.detach().float() - other.detach().float()).abs().max() == 0
    assert Grid(param.shape, 2048 // 8 // 4).tiles_per_strip > 1


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16])
def test_other_dtypes_are_rounded_to_nearest(dtype: torch.dtype) -> None:
    start, grad = torch.randn(8, 8).to(dtype), torch.randn(8, 8).to(dtype)
    written = []
    for choice in (True, False):
        param = nn.Parameter(start.clone())
        param.grad = grad
        Adafactor([param], stochastic_rounding=choice).step()
        written.append(param.detach())

    assert torch.equal(*written)


@pytest.mark.usefixtures("path")
def test_transposed_parameter_is_rounded_in_memory_order() -> None:
    """Its bits are those of the contiguous tensor that lies in the same memory."""
    rows = nn.Parameter(torch.randn(6, 24).bfloat16())
    columns = nn.Parameter(rows.detach().clone().mT)
    for param, grad in ((rows, torch.ones(6, 24)), (columns, torch.ones(24, 6))):
        param.grad = grad.bfloat16()
        Adafactor([param], lr=1e-3, scale_parameter=False, relative_step=False).step()

    assert torch.equal(columns.detach().mT, rows.detach())
