"""Rows of float32 as vectors, for compiled kernels.

Numba leaves short inner loops to a vectoriser that gives up on them, so that eight labels cost eight times as much as
one. Here a row is read and written in vectors of `len(lanes)` numbers; LLVM turns them into whatever the processor
has. `lanes` is a tuple because its length is a constant to the compiler; rows are a multiple of it long.
"""

from __future__ import annotations

from typing import Any

import numba
from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic as typed_intrinsic

intrinsic: Any = typed_intrinsic  # what it makes is called with other arguments than it is defined with


def lanes_for(channels: int) -> tuple[int, ...]:
    """Returns the lanes of vectors that suit rows of so many channels."""
    return (0,) * (1 if channels == 1 else 4 if channels <= 4 else 8)


def width_for(channels: int) -> int:
    """Returns how long rows of so many channels are."""
    lanes = len(lanes_for(channels))
    return -(-channels // lanes) * lanes


def _each_vector(context: Any, builder: Any, array_type: Any, array: Any, row: Any, lanes: int) -> Any:
    """Pointers to the vectors of a row, one after the other, in a loop of the code that is made."""
    parts = context.make_array(array_type)(context, builder, array)
    _, width = cgutils.unpack_tuple(builder, parts.shape, 2)
    start = builder.gep(parts.data, [builder.mul(row, width)])
    vector = ir.VectorType(ir.FloatType(), lanes)
    return builder.bitcast(start, vector.as_pointer()), builder.sdiv(width, width.type(lanes))


def _vector(builder: Any, scalar: Any, lanes: int) -> Any:
    vector = ir.Constant(ir.VectorType(ir.FloatType(), lanes), ir.Undefined)
    for lane in range(lanes):
        vector = builder.insert_element(vector, scalar, ir.IntType(32)(lane))
    return vector


def _load(builder: Any, pointer: Any) -> Any:
    return builder.load(pointer, align=4)


@intrinsic
def add_scaled(typing_context, target, i, source, j, weight, lanes):  # type: ignore[no-untyped-def] # noqa: ARG001
    """Adds a multiple of one row to another: `target[i] += weight * source[j]`."""

    def generate(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        target, i, source, j, weight, _ = arguments
        count = len(signature.args[5])
        to, vectors = _each_vector(context, builder, signature.args[0], target, i, count)
        of, _ = _each_vector(context, builder, signature.args[2], source, j, count)
        factor = _vector(builder, weight, count)
        with cgutils.for_range(builder, vectors) as loop:
            place = builder.gep(to, [loop.index])
            product = builder.fmul(factor, _load(builder, builder.gep(of, [loop.index])), flags=("fast",))
            builder.store(builder.fadd(_load(builder, place), product, flags=("fast",)), place, align=4)
        return context.get_dummy_value()

    return types.void(target, types.uint64, source, types.uint64, types.float32, lanes), generate


@intrinsic
def add_gathered(typing_context, target, i, source, rows, weights, j, factor, lanes):  # type: ignore[no-untyped-def] # noqa: ARG001
    """Adds a weighted sum of rows to a row: `target[i] += factor * sum_k weights[j, k] * source[rows[j, k]]`.

    The sum stays in a register.
    """

    def generate(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        target, i, source, rows, weights, j, factor, _ = arguments
        count = len(signature.args[7])
        to, vectors = _each_vector(context, builder, signature.args[0], target, i, count)
        numbers = context.make_array(signature.args[3])(context, builder, rows)
        shares = context.make_array(signature.args[4])(context, builder, weights)
        _, kinds = cgutils.unpack_tuple(builder, numbers.shape, 2)
        begin = builder.mul(j, kinds)
        kind = ir.VectorType(ir.FloatType(), count)
        total = cgutils.alloca_once(builder, kind)
        scale = _vector(builder, factor, count)
        with cgutils.for_range(builder, vectors) as vector:
            builder.store(ir.Constant(kind, None), total)
            with cgutils.for_range(builder, kinds) as loop:
                entry = builder.add(begin, loop.index)
                row = builder.zext(builder.load(builder.gep(numbers.data, [entry])), begin.type)
                share = builder.load(builder.gep(shares.data, [entry]))
                of, _ = _each_vector(context, builder, signature.args[2], source, row, count)
                value = _load(builder, builder.gep(of, [vector.index]))
                product = builder.fmul(_vector(builder, share, count), value, flags=("fast",))
                builder.store(builder.fadd(builder.load(total), product, flags=("fast",)), total)
            place = builder.gep(to, [vector.index])
            product = builder.fmul(builder.load(total), scale, flags=("fast",))
            builder.store(builder.fadd(_load(builder, place), product, flags=("fast",)), place, align=4)
        return context.get_dummy_value()

    signature = types.void(target, types.uint64, source, rows, weights, types.uint64, types.float32, lanes)
    return signature, generate


@intrinsic
def blend(typing_context, target, i, source, one, other, lanes):  # type: ignore[no-untyped-def] # noqa: ARG001
    """Writes a row with half of two others added: `target[i] = source[i] + (source[one] + source[other]) / 2`."""

    def generate(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        target, i, source, one, other, _ = arguments
        count = len(signature.args[5])
        to, vectors = _each_vector(context, builder, signature.args[0], target, i, count)
        rows = [_each_vector(context, builder, signature.args[2], source, r, count)[0] for r in (i, one, other)]
        half = ir.Constant(ir.VectorType(ir.FloatType(), count), [0.5] * count)
        with cgutils.for_range(builder, vectors) as loop:
            own, left, right = (_load(builder, builder.gep(row, [loop.index])) for row in rows)
            both = builder.fmul(builder.fadd(left, right, flags=("fast",)), half, flags=("fast",))
            place = builder.gep(to, [loop.index])
            builder.store(builder.fadd(own, both, flags=("fast",)), place, align=4)
        return context.get_dummy_value()

    return types.void(target, types.uint64, source, types.uint64, types.uint64, lanes), generate


def _reduction(combine: str, start: float) -> Any:
    @intrinsic
    def reduce(typing_context, array, i, lanes):  # type: ignore[no-untyped-def] # noqa: ARG001
        def generate(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
            count = len(signature.args[2])
            of, vectors = _each_vector(context, builder, signature.args[0], arguments[0], arguments[1], count)
            kind = ir.VectorType(ir.FloatType(), count)
            total = cgutils.alloca_once_value(builder, _vector(builder, ir.FloatType()(start), count))
            with cgutils.for_range(builder, vectors) as loop:
                value = _load(builder, builder.gep(of, [loop.index]))
                builder.store(_combine(builder, combine, builder.load(total), value), total)
            vector = builder.load(total)
            result = builder.extract_element(vector, ir.IntType(32)(0))
            for lane in range(1, kind.count):
                result = _combine(builder, combine, result, builder.extract_element(vector, ir.IntType(32)(lane)))
            return result

        return types.float32(array, types.uint64, lanes), generate

    return reduce


def _combine(builder: Any, how: str, one: Any, other: Any) -> Any:
    if how == "add":
        return builder.fadd(one, other, flags=("fast",))
    return builder.select(builder.fcmp_ordered(">", one, other), one, other)


row_sum = _reduction("add", 0.0)
row_max = _reduction("max", -3e38)


@intrinsic
def _power_of_two(typing_context, exponent):  # type: ignore[no-untyped-def] # noqa: ARG001
    """2 ** exponent as float32, from an int32 of -126..127: the exponent is written into the bits."""

    def generate(context, builder, signature, arguments):  # type: ignore[no-untyped-def] # noqa: ARG001
        biased = builder.add(arguments[0], ir.IntType(32)(127))
        return builder.bitcast(builder.shl(biased, ir.IntType(32)(23)), ir.FloatType())

    return types.float32(types.int32), generate


@numba.njit(inline="always")
def exp(x: float) -> float:
    """Computes exp of x <= 0 in arithmetic that becomes vector instructions.

    It is exact to 2e-7 relative, and 0 below -87.
    """
    scaled = (x if x > numba.float32(-87) else numba.float32(-87)) * numba.float32(1.4426950408889634)
    whole = numba.int32(scaled - numba.float32(0.5))  # towards zero, so the nearest
    part = (scaled - numba.float32(whole)) * numba.float32(0.6931471805599453)
    series = numba.float32(1 / 720)
    series = series * part + numba.float32(1 / 120)
    series = series * part + numba.float32(1 / 24)
    series = series * part + numba.float32(1 / 6)
    series = series * part + numba.float32(0.5)
    series = series * part + numba.float32(1)
    series = series * part + numba.float32(1)
    return series * _power_of_two(whole)
