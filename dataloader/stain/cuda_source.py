"""CUDA text of the stain kernels; a file of its own, so that it can be compile-checked without a GPU.

Both kernels: a block serves one image (its y), a thread every so many pixels of it; the table of 256 grey levels lies
in shared memory. Strides are in bytes, so that channels may come last or first.
"""

from __future__ import annotations

from dataloader.stain.fade import BACKGROUND_FROM, TISSUE_UNTIL
from dataloader.stain.lab import (
    ENCODED_FROM,
    RGB_TO_XYZ,
    ROOT_FROM,
    SLOPE,
    START,
    XYZ_TO_RGB,
)

_FADE = f"""
// Level of a pixel between before and after its change, by its darkest channel; background stays.
__device__ __forceinline__ float share_of(int red, int green, int blue) {{
    const float darkest = min(min(red, green), blue);
    return fminf(fmaxf(({BACKGROUND_FROM} - darkest) / {BACKGROUND_FROM - TISSUE_UNTIL}.f, 0.f), 1.f);
}}

__device__ __forceinline__ unsigned char faded(int before, float after, float share) {{
    return to_level(before + share * (fminf(fmaxf(after, 0.f), 255.f) - before));
}}
"""

_HEAD = """
__device__ __forceinline__ unsigned char to_level(float value) {
    return static_cast<unsigned char>(min(max(__float2int_rn(value), 0), 255));
}

__device__ __forceinline__ void load_table(float* shared, const float* table) {
    for (int i = threadIdx.x; i < 256; i += blockDim.x) shared[i] = table[i];
    __syncthreads();
}
"""

_LOOP = """
    for (long long i = blockIdx.x * (long long)blockDim.x + threadIdx.x; i < pixels;
         i += (long long)gridDim.x * blockDim.x) {
        const unsigned row = (unsigned)i / width, column = (unsigned)i - row * width;
        const unsigned char* in = source + blockIdx.y * from_image + row * from_row + column * from_column;
        unsigned char* out = result + blockIdx.y * to_image + row * to_row + column * to_column;
        const unsigned char red = in[0], green = in[from_channel], blue = in[2 * from_channel];
        if (unchanged[number]) {
            out[0] = red; out[to_channel] = green; out[2 * to_channel] = blue;
            continue;
        }
"""

_SIZES = """unsigned pixels, unsigned width,
    long long from_image, long long from_row, long long from_column, long long from_channel,
    long long to_image, long long to_row, long long to_column, long long to_channel"""

_MIX = f"""
extern "C" __global__ void mix_densities(
    const unsigned char* source, unsigned char* result, const float* table, const float* matrices,
    const bool* unchanged, int is_one_each, int fades, float intensity, {_SIZES}) {{
    __shared__ float density[256];
    load_table(density, table);
    const int number = is_one_each ? blockIdx.y : 0;
    float m[9];
    for (int k = 0; k < 9; ++k) m[k] = matrices[9 * number + k];
    {_LOOP}
        const float r = density[red], g = density[green], b = density[blue];
        const float share = fades ? share_of(red, green, blue) : 1;
        out[0] = faded(red, intensity * __expf(-(m[0] * r + m[1] * g + m[2] * b)), share);
        out[to_channel] = faded(green, intensity * __expf(-(m[3] * r + m[4] * g + m[5] * b)), share);
        out[2 * to_channel] = faded(blue, intensity * __expf(-(m[6] * r + m[7] * g + m[8] * b)), share);
    }}
}}
"""


def _row(weights: object, names: str) -> str:
    """Return a weighted sum as CUDA text."""
    return " + ".join(f"{weight:.9g}f * {name}" for weight, name in zip(weights, names, strict=True))  # type: ignore[call-overload]


_ENCODE = "\n".join(
    f"        levels[{axis}] = encode({_row(row, 'xyz')});" for axis, row in enumerate(XYZ_TO_RGB)
)

_LAB = f"""
__device__ __forceinline__ float root(float share) {{
    return share > {ROOT_FROM:.9g}f ? cbrtf(share) : {SLOPE:.9g}f * share + {START:.9g}f;
}}

__device__ __forceinline__ float cube(float value) {{
    return value > {ROOT_FROM ** (1 / 3):.9g}f ? value * value * value : (value - {START:.9g}f) / {SLOPE:.9g}f;
}}

__device__ __forceinline__ float encode(float linear) {{
    const float share = linear > {ENCODED_FROM:.9g}f ? 1.055f * powf(linear, 1 / 2.4f) - .055f : 12.92f * linear;
    return 255 * share;
}}

extern "C" __global__ void shift_lab(
    const unsigned char* source, unsigned char* result, const float* table, const float* affine,
    const bool* unchanged, int is_one_each, {_SIZES}) {{
    __shared__ float linear[256];
    load_table(linear, table);
    const int number = is_one_each ? blockIdx.y : 0;
    const float* scale = affine + 6 * number;
    const float* shift = scale + 3;
    {_LOOP}
        const float r = linear[red], g = linear[green], b = linear[blue];
        const float fx = root({_row(RGB_TO_XYZ[0], "rgb")});
        const float fy = root({_row(RGB_TO_XYZ[1], "rgb")});
        const float fz = root({_row(RGB_TO_XYZ[2], "rgb")});
        const float light = scale[0] * (116 * fy - 16) + shift[0];
        const float along_a = scale[1] * 500 * (fx - fy) + shift[1];
        const float along_b = scale[2] * 200 * (fy - fz) + shift[2];
        const float middle = (light + 16) / 116;
        const float x = cube(middle + along_a / 500), y = cube(middle), z = cube(middle - along_b / 200);
        float levels[3];
{_ENCODE}
        const float share = share_of(red, green, blue);
        out[0] = faded(red, levels[0], share);
        out[to_channel] = faded(green, levels[1], share);
        out[2 * to_channel] = faded(blue, levels[2], share);
    }}
}}
"""

SOURCE = _HEAD + _FADE + _MIX + _LAB
