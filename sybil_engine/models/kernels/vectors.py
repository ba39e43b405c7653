"""Vectors of eight float32 for kernels that numba compiles.

Plain loops leave the order of a sum to the compiler. With vectors a kernel says it, so a sum has the same bits wherever
its loop stands.
"""

from collections.abc import Callable
from typing import Any, cast

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic as numba_intrinsic
from numba.extending import models, register_model

LANES = 8

# What is decorated takes a compiler's context, then the types of its arguments; kernels call it with the arguments.
intrinsic = cast(Callable[[Callable[..., Any]], Callable[..., Any]], numba_intrinsic)
_INTS = ir.VectorType(ir.IntType(32), LANES)
_SHORTS = ir.VectorType(ir.IntType(16), LANES)
_FLOATS = ir.VectorType(ir.FloatType(), LANES)
_NONE = ir.Constant(_FLOATS, ir.Undefined)


class _Vector(types.Type):  # type: ignore[misc]
    def __init__(self) -> None:
        super().__init__(name=f"float32x{LANES}")


@register_model(_Vector)
class _VectorModel(models.PrimitiveModel):  # type: ignore[misc]
    def __init__(self, manager: Any, kind: Any) -> None:
        super().__init__(manager, kind, _FLOATS)


_vector = _Vector()


def _ints(*numbers: int) -> Any:
    return ir.Constant(ir.VectorType(ir.IntType(32), len(numbers)), list(numbers))


def _operation(build: Callable[..., Any]) -> Callable[..., Any]:
    """An operation on vectors: `build` takes the builder and their values."""

    def two(context: Any, left: Any, right: Any) -> Any:
        return _vector(left, right), lambda _, builder, signature, values: build(builder, *values)

    def one(context: Any, only: Any) -> Any:
        return _vector(only), lambda _, builder, signature, values: build(builder, *values)

    return intrinsic(one if build.__code__.co_argcount == 2 else two)


def _library_call(builder: Any, name: str, *values: Any) -> Any:
    kind = ir.FunctionType(_FLOATS, [_FLOATS] * len(values))
    function = cgutils.get_or_insert_function(builder.module, kind, f"llvm.{name}.v{LANES}f32")
    return builder.call(function, values)


def _place(context: Any, builder: Any, kind: Any, array: Any, offset: Any, vector: Any) -> Any:
    first = builder.gep(context.make_array(kind)(context, builder, array).data, [offset])
    return builder.bitcast(first, vector.as_pointer())


@intrinsic
def load(context: Any, array: Any, offset: Any) -> Any:
    """Eight numbers of a flat array, from `offset` on: float32, or bfloat16 seen as int16."""

    def build(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        kind, (array, offset) = signature.args[0], values
        if kind.dtype == types.float32:
            return builder.load(_place(context, builder, kind, array, offset, _FLOATS), align=4)
        short = builder.load(_place(context, builder, kind, array, offset, _SHORTS), align=2)
        return builder.bitcast(builder.shl(builder.zext(short, _INTS), _ints(*[16] * LANES)), _FLOATS)

    return _vector(array, types.intp), build


@intrinsic
def store(context: Any, array: Any, offset: Any, vector: Any) -> Any:
    """Put a vector into a flat array of float32, from `offset` on."""

    def build(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        array, offset, vector = values
        builder.store(vector, _place(context, builder, signature.args[0], array, offset, _FLOATS), align=4)
        return context.get_dummy_value()

    return types.void(array, types.intp, vector), build


@intrinsic
def broadcast(context: Any, number: Any) -> Any:
    """One number in every lane."""

    def build(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        one = builder.insert_element(_NONE, values[0], ir.Constant(ir.IntType(32), 0))
        return builder.shuffle_vector(one, _NONE, _ints(*[0] * LANES))

    return _vector(types.float32), build


@intrinsic
def lane(context: Any, vector: Any, index: Any) -> Any:
    """The number in one lane."""
    return types.float32(vector, types.intp), lambda _, builder, signature, values: builder.extract_element(*values)


@intrinsic
def fma(context: Any, left: Any, right: Any, addend: Any) -> Any:
    """left * right + addend."""
    return _vector(left, right, addend), lambda _, builder, signature, values: _library_call(
        builder, "fmuladd", *values
    )


add = _operation(lambda builder, left, right: builder.fadd(left, right))
subtract = _operation(lambda builder, left, right: builder.fsub(left, right))
multiply = _operation(lambda builder, left, right: builder.fmul(left, right))
greater = _operation(lambda builder, left, right: builder.select(builder.fcmp_ordered(">", left, right), left, right))
floor = _operation(lambda builder, only: _library_call(builder, "floor", only))


def _build_power(builder: Any, exponent: Any) -> Any:
    biased = builder.add(builder.fptosi(exponent, _INTS), _ints(*[127] * LANES))
    return builder.bitcast(builder.shl(biased, _ints(*[23] * LANES)), _FLOATS)


power_of_two = _operation(_build_power)
"""2 to the power of whole numbers between -126 and 127."""


@intrinsic
def totals(context: Any, v0: Any, v1: Any, v2: Any, v3: Any, v4: Any, v5: Any, v6: Any, v7: Any) -> Any:
    """A vector with the sum of each of eight vectors, all summed in the same order."""

    def build(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        def fold(left: Any, right: Any, low: tuple[int, ...], step: int) -> Any:
            high = (index + step for index in low)
            halves = (builder.shuffle_vector(left, right, _ints(*each)) for each in (low, high))
            return builder.fadd(*halves)

        pairs = [fold(values[i], values[i + 1], (0, 8, 1, 9, 4, 12, 5, 13), 2) for i in (0, 2, 4, 6)]
        first, second = (fold(pairs[i], pairs[i + 1], (0, 1, 8, 9, 4, 5, 12, 13), 2) for i in (0, 2))
        return fold(first, second, (0, 1, 2, 3, 8, 9, 10, 11), 4)

    return _vector(*[_vector] * LANES), build


@intrinsic
def pointer(context: Any, address: Any, like: Any) -> Any:
    """An address as a pointer to numbers of the type of `like`."""

    def build(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        return builder.inttoptr(values[0], context.get_value_type(signature.return_type))

    return types.CPointer(like)(address, like), build
