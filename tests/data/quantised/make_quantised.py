"""Write small quantised checkpoints with the libraries of their formats, and the dense weights that these give back.

Run it in an environment with torch and the libraries that are imported below: ``python make_quantised.py [NAME...]``. It writes
``NAME/model.safetensors``, ``NAME/config.json`` and ``NAME.expected.safetensors`` beside this file. The packages are needed without their
own requirements only; versions: see ``VERSIONS``.
"""

from __future__ import annotations

import importlib
import json
import sys
import types
from pathlib import Path

import torch
from safetensors.torch import save_file

HERE = Path(__file__).parent
#: versions that wrote the files beside this script
VERSIONS = {
    "bitsandbytes": "0.50.2",
    "compressed_tensors": "0.20.0",
    "transformers": "5.23.0",
    "auto_gptq": "0.7.1",
    "gptqmodel": "7.7.0",
    "awq": "0.2.9",
    "mlx": "0.32.4",
    "modelopt": "0.47.0",
    "quanto": "0.2.7",
    "torchao": "0.18.0",
}


def random(*shape: int, dtype: torch.dtype = torch.bfloat16) -> torch.Tensor:
    return (torch.randn(shape) * 0.05).to(dtype)


def bitsandbytes():
    import bitsandbytes.functional as functional

    tensors, expected = {"norm.weight": torch.ones(8, dtype=torch.bfloat16)}, {}
    kinds = {
        "nf4": ("nf4", False, torch.bfloat16, torch.uint8, (16, 96)),
        "nf4_double": ("nf4", True, torch.bfloat16, torch.uint8, (16, 96)),
        "nf4_stored_as_bf16": ("nf4", True, torch.float16, torch.bfloat16, (8, 64)),
        "nf4_odd": ("nf4", False, torch.float32, torch.uint8, (5, 21)),
        "fp4": ("fp4", False, torch.float16, torch.uint8, (16, 64)),
        "fp4_double": ("fp4", True, torch.bfloat16, torch.uint8, (300, 64)),
    }
    for name, (kind, double, dtype, storage, shape) in kinds.items():
        weight = random(*shape, dtype=dtype)
        codes, state = functional.quantize_4bit(weight, compress_statistics=double, quant_type=kind, quant_storage=storage)
        tensors[f"{name}.weight"] = codes
        tensors |= {f"{name}.weight.{key}": value.clone() for key, value in state.as_dict(packed=True).items()}
        expected[f"{name}.weight"] = functional.dequantize_4bit(codes, state)
    codes, scale, _ = functional.int8_vectorwise_quant(random(16, 64, dtype=torch.float16))
    tensors |= {"int8.weight": codes, "int8.SCB": scale, "int8.weight_format": torch.tensor(0, dtype=torch.uint8)}
    expected["int8.weight"] = functional.int8_vectorwise_dequant(codes, scale)
    return tensors, expected, {}


def nf4_base(factor: float = 1.0):
    """Two layers with double quantisation; see ``nf4_tuned``."""
    import bitsandbytes.functional as functional

    tensors, expected = {"model.norm.weight": torch.ones(64, dtype=torch.bfloat16)}, {}
    for layer in range(2):
        name = f"model.layers.{layer}.self_attn.q_proj.weight"
        codes, state = functional.quantize_4bit(random(32, 64) * factor, compress_statistics=True, quant_type="nf4")
        tensors |= {name: codes} | {f"{name}.{key}": value.clone() for key, value in state.as_dict(packed=True).items()}
        expected[name] = functional.dequantize_4bit(codes, state)
    return tensors, expected, {"quantization_config": {"quant_method": "bitsandbytes", "load_in_4bit": True}}


def nf4_tuned():
    """The same layers, every weight half as large again."""
    return nf4_base(1.5)


def compressed_tensors():
    from compressed_tensors.compressors import BaseCompressor
    from compressed_tensors.quantization import QuantizationArgs, QuantizationScheme
    from compressed_tensors.quantization.utils import calculate_qparams, calculate_range

    integers = {"type": "int", "symmetric": True}
    floats = {"type": "float", "symmetric": True}
    kinds = {
        "int4_group": ("pack-quantized", integers | {"num_bits": 4, "strategy": "group", "group_size": 32}, (16, 64)),
        "int4_asymmetric": (
            "pack-quantized",
            {"type": "int", "symmetric": False, "num_bits": 4, "strategy": "group", "group_size": 32},
            (20, 64),
        ),
        "int4_channel": ("pack-quantized", integers | {"num_bits": 4, "strategy": "channel"}, (16, 52)),
        "int3_group": ("pack-quantized", integers | {"num_bits": 3, "strategy": "group", "group_size": 32}, (16, 96)),
        "int5_asymmetric": (
            "pack-quantized",
            {"type": "int", "symmetric": False, "num_bits": 5, "strategy": "group", "group_size": 32},
            (12, 96),
        ),
        "int8_packed": ("pack-quantized", integers | {"num_bits": 8, "strategy": "group", "group_size": 32}, (8, 64)),
        "int8_channel": ("int-quantized", integers | {"num_bits": 8, "strategy": "channel"}, (16, 64)),
        "int8_tensor": ("int-quantized", integers | {"num_bits": 8, "strategy": "tensor"}, (16, 64)),
        "int8_asymmetric": ("int-quantized", {"type": "int", "symmetric": False, "num_bits": 8, "strategy": "channel"}, (16, 64)),
        "fp8_channel": ("float-quantized", floats | {"num_bits": 8, "strategy": "channel"}, (16, 64)),
        "fp8_tensor": ("float-quantized", floats | {"num_bits": 8, "strategy": "tensor"}, (16, 64)),
        "fp8_block": ("float-quantized", floats | {"num_bits": 8, "strategy": "block", "block_structure": [16, 32]}, (40, 80)),
        "nvfp4": ("nvfp4-pack-quantized", floats | {"num_bits": 4, "strategy": "tensor_group", "group_size": 16}, (16, 64)),
        "mxfp4": ("mxfp4-pack-quantized", floats | {"num_bits": 4, "strategy": "group", "group_size": 32}, (16, 64)),
        "mxfp8": ("mxfp8-quantized", floats | {"num_bits": 8, "strategy": "group", "group_size": 32}, (16, 64)),
    }
    tensors, expected = {"norm.weight": torch.ones(8, dtype=torch.bfloat16)}, {}
    for name, (layout, options, shape) in kinds.items():
        args = QuantizationArgs(**options)
        weight = random(*shape)
        low, high = _extremes(weight, options)
        state = {"weight": weight}
        scale, zero = calculate_qparams(low, high, args)
        if layout == "nvfp4-pack-quantized":
            state["weight_global_scale"] = torch.tensor([448 * 6 / weight.abs().max().float()])
            scale = (high.abs().maximum(low.abs()).float() / 6 * state["weight_global_scale"]).to(torch.float8_e4m3fn).float()
        if layout.startswith("mxfp"):
            scale = 2.0 ** torch.ceil(torch.log2(high.abs().maximum(low.abs()).float() / float(calculate_range(args, "cpu")[1])))
        state["weight_scale"] = scale.to(torch.bfloat16) if layout != "nvfp4-pack-quantized" else scale
        if not args.symmetric:
            state["weight_zero_point"] = zero.to(torch.int8)
        scheme = QuantizationScheme(targets=["Linear"], weights=args, format=layout)
        compressor = BaseCompressor.get_value_from_registry(layout)
        stored = compressor.compress(state, scheme)
        tensors |= {f"{name}.{key}": value.detach().clone().contiguous() for key, value in stored.items()}
        expected[f"{name}.weight"] = compressor.decompress(stored, scheme)["weight"]
    groups = {f"group_{number}": {"weights": options} for number, (_, options, _) in enumerate(kinds.values())}
    config = {"quantization_config": {"quant_method": "compressed-tensors", "config_groups": groups}}
    return tensors, expected, config


def _extremes(weight: torch.Tensor, options: dict) -> tuple[torch.Tensor, torch.Tensor]:
    """The smallest and the largest weight of each set of weights that shares a scale."""
    if options["strategy"] == "tensor":
        sets = weight.reshape(1, -1)
        return sets.amin(-1), sets.amax(-1)
    if options["strategy"] == "block":
        height, width = options["block_structure"]
        rows, columns = -(-weight.shape[0] // height), -(-weight.shape[1] // width)
        padded = torch.zeros(rows * height, columns * width, dtype=weight.dtype)
        padded[: weight.shape[0], : weight.shape[1]] = weight
        sets = padded.reshape(rows, height, columns, width)
        return sets.amin((1, 3)), sets.amax((1, 3))
    size = options.get("group_size", weight.shape[1])
    sets = weight.reshape(weight.shape[0], -1, size)
    return sets.amin(-1), sets.amax(-1)


def finegrained_fp8():
    """Block FP8 as transformers saves it (the layout of DeepSeek-V3 and Qwen3)."""
    from transformers.integrations.finegrained_fp8 import Fp8Dequantize, Fp8Quantize

    tensors, expected = {"norm.weight": torch.ones(8, dtype=torch.bfloat16)}, {}
    for fmt, names in (("float", ("q_proj.weight", "mlp.experts.gate_up_proj")), ("ue8m0", ("k_proj.weight",))):
        config = types.SimpleNamespace(weight_block_size=(16, 32), scale_fmt=fmt)
        quantizer = types.SimpleNamespace(quantization_config=config)
        for name in names:
            weight = random(*((32, 64) if name.endswith("weight") else (3, 32, 64)))
            stored = Fp8Quantize(quantizer).convert({name: weight})
            tensors |= stored
            scale = next(value for key, value in stored.items() if key != name)
            expected[name] = Fp8Dequantize(quantizer)._dequantize_one(stored[name], scale, torch.bfloat16)
    return tensors, expected, {"dtype": "bfloat16", "quantization_config": {"quant_method": "fp8", "weight_block_size": [16, 32]}}


def gpt_oss():
    """Random MXFP4 codes, dequantised by transformers: its own quantiser needs triton."""
    from transformers.integrations.mxfp4 import convert_moe_packed_tensors

    name = "model.layers.0.mlp.experts.gate_up_proj"
    blocks = torch.randint(0, 256, (3, 20, 2, 16), dtype=torch.uint8)
    scales = torch.randint(110, 130, (3, 20, 2), dtype=torch.uint8)
    dense = convert_moe_packed_tensors(blocks, scales)
    # transformers 4 transposes within the conversion, 5 in a step of its own: the weight of the model is (experts, in, out)
    dense = dense if dense.shape == (3, 64, 20) else dense.transpose(1, 2)
    tensors = {f"{name}_blocks": blocks, f"{name}_scales": scales, f"{name}_bias": torch.ones(3, 20, dtype=torch.bfloat16)}
    return tensors, {name: dense}, {"quantization_config": {"quant_method": "mxfp4"}}


def auto_gptq():
    package = importlib.util.find_spec("auto_gptq")  # its __init__ does not import with transformers 5
    stub = types.ModuleType("auto_gptq")
    stub.__path__ = list(package.submodule_search_locations)
    sys.modules["auto_gptq"] = stub
    from auto_gptq.nn_modules.qlinear.qlinear_cuda_old import QuantLinear

    tensors, expected = {"norm.weight": torch.ones(8, dtype=torch.float16)}, {}
    for symmetric in (True, False):
        layer = torch.nn.Linear(128, 64, bias=False).half()
        scale, zero = _affine(layer.weight, 4, 64, symmetric)
        packed = QuantLinear(4, 64, 128, 64, False)
        packed.pack(layer.float(), scale.float(), zero.float(), None)
        packed.half()
        name = "symmetric" if symmetric else "asymmetric"
        tensors |= {f"{name}.{key}": value.contiguous() for key, value in packed.state_dict().items()}
        expected[f"{name}.weight"] = packed(torch.eye(128).half()).T.contiguous()
    return tensors, expected, {"quantization_config": {"quant_method": "gptq", "bits": 4, "group_size": 64, "desc_act": False}}


def _affine(weight: torch.Tensor, bits: int, size: int, symmetric: bool) -> tuple[torch.Tensor, torch.Tensor]:
    """Scales and zero points of groups of a row, (outputs, groups)."""
    sets = weight.detach().float().reshape(weight.shape[0], -1, size)
    top = 2**bits - 1
    if symmetric:
        scale = sets.abs().amax(-1) * 2 / top
        return scale.half().float(), torch.full_like(scale, (top + 1) // 2)
    low, high = sets.amin(-1).clamp(max=-1e-3), sets.amax(-1).clamp(min=1e-3)
    scale = ((high - low) / top).half().float()
    return scale, torch.round(-low / scale).clamp(1, top)


def gptqmodel(version: int = 1):
    from gptqmodel import BACKEND
    from gptqmodel.nn_modules.qlinear.torch import TorchLinear
    from gptqmodel.utils.model_dequant import _revert_gptq_v1_qzeros_correction

    tensors, expected = {"norm.weight": torch.ones(8, dtype=torch.float16)}, {}
    for bits in (2, 3, 4, 8) if version == 1 else (3, 4):
        layer = torch.nn.Linear(128, 32, bias=False)
        scale, zero = _affine(layer.weight, bits, 32, False)
        order = torch.randperm(128) // 32 if bits == 4 else torch.arange(128) // 32
        packed = TorchLinear(
            bits=bits, group_size=32, desc_act=bits == 4, sym=False, in_features=128, out_features=32, bias=False,
            pack_dtype=torch.int32, backend=BACKEND.GPTQ_TORCH if hasattr(BACKEND, "GPTQ_TORCH") else BACKEND.TORCH, adapter=None,
        )  # fmt: skip
        packed.pack_original(layer, scale, zero, order.to(torch.int32))
        packed.post_init()
        expected[f"bits{bits}.weight"] = packed.dequantize_weight().T.half().contiguous()
        state = {
            key: value.clone().contiguous() for key, value in packed.state_dict().items() if key in ("qweight", "qzeros", "scales", "g_idx")
        }
        state |= {key: getattr(packed, key).clone().contiguous() for key in ("qweight", "qzeros", "scales", "g_idx")}
        if version == 1:
            state["qzeros"] = _revert_gptq_v1_qzeros_correction(state["qzeros"], bits)
        tensors |= {f"bits{bits}.{key}": value for key, value in state.items()}
    layout = "gptq" if version == 1 else "gptq_v2"
    return tensors, expected, {"quantization_config": {"quant_method": "gptq", "group_size": 32, "checkpoint_format": layout}}


def gptqmodel_v2():
    return gptqmodel(2)


def awq():
    from awq.modules.linear.gemm import WQLinear_GEMM
    from awq.utils.packing_utils import dequantize_gemm

    layer = torch.nn.Linear(128, 64, bias=False).half()
    scale, zero = _affine(layer.weight, 4, 32, False)
    packed = WQLinear_GEMM.from_linear(layer, 4, 32, scales=scale.T.contiguous(), zeros=zero.T.contiguous())
    dense = dequantize_gemm(packed.qweight, packed.qzeros, packed.scales, 4, 32)
    tensors = {f"q_proj.{key}": value.contiguous() for key, value in packed.state_dict().items()}
    config = {"quantization_config": {"quant_method": "awq", "bits": 4, "group_size": 32, "version": "gemm", "zero_point": True}}
    return tensors | {"norm.weight": torch.ones(8, dtype=torch.float16)}, {"q_proj.weight": dense.T.contiguous()}, config


def mlx():
    import mlx.core
    import numpy

    mx = mlx.core
    tensors, expected, own = {"norm.weight": torch.ones(8, dtype=torch.bfloat16)}, {}, {}
    for bits in (2, 3, 4, 5, 6, 8):
        weight = mx.array(random(8, 128, dtype=torch.float32).numpy()).astype(mx.bfloat16)
        parts = mx.quantize(weight, group_size=64, bits=bits)
        dense = mx.dequantize(*parts, group_size=64, bits=bits)
        tensors[f"bits{bits}.weight"] = torch.from_numpy(numpy.array(parts[0]).view(numpy.uint32).copy())
        for name, part in zip(("scales", "biases"), parts[1:], strict=True):
            tensors[f"bits{bits}.{name}"] = torch.from_numpy(numpy.array(part.astype(mx.float32))).bfloat16()
        expected[f"bits{bits}.weight"] = torch.from_numpy(numpy.array(dense.astype(mx.float32))).bfloat16()
        own[f"bits{bits}"] = {"bits": bits, "group_size": 64}
    for mode, size in (("mxfp4", 32), ("nvfp4", 16)):
        parts = mx.quantize(weight, mode=mode)
        tensors[f"{mode}.weight"] = torch.from_numpy(numpy.array(parts[0]).copy())
        tensors[f"{mode}.scales"] = torch.from_numpy(numpy.array(parts[1]).copy())
        own[mode] = {"mode": mode, "bits": 4, "group_size": size}
        if mode == "mxfp4":
            expected["mxfp4.weight"] = torch.from_numpy(numpy.array(mx.dequantize(*parts, mode=mode).astype(mx.float32))).bfloat16()
    return tensors, expected, {"quantization": {"bits": 4, "group_size": 64} | own}


def modelopt():
    from modelopt.torch.export.quant_utils import to_quantized_weight
    from modelopt.torch.quantization.qtensor.mxfp4_tensor import MXFP4QTensor
    from modelopt.torch.quantization.qtensor.nvfp4_tensor import NVFP4QTensor

    tensors, expected = {"norm.weight": torch.ones(8, dtype=torch.bfloat16)}, {}
    weight = random(16, 64)
    codes, scale, whole = NVFP4QTensor.quantize(weight, 16)
    tensors |= {"nvfp4.weight": codes._quantized_data, "nvfp4.weight_scale": scale, "nvfp4.weight_scale_2": whole}
    tensors["nvfp4.input_scale"] = torch.ones(())
    expected["nvfp4.weight"] = codes.dequantize(scale=scale, double_scale=whole, block_sizes={-1: 16})
    codes, scale = MXFP4QTensor.quantize(weight, 32)
    tensors |= {"mxfp4.weight": codes._quantized_data, "mxfp4.weight_scale": scale.reshape(16, 2)}
    expected["mxfp4.weight"] = codes.dequantize(scale=scale, block_sizes={-1: 32})
    scale = weight.abs().max().float() / 448
    tensors |= {"fp8.weight": to_quantized_weight(weight, scale, "fp8"), "fp8.weight_scale": scale, "fp8.k_scale": torch.ones(())}
    expected["fp8.weight"] = (tensors["fp8.weight"].float() * scale).bfloat16()
    config = {"dtype": "bfloat16", "quantization_config": {"quant_method": "modelopt", "quant_algo": "MIXED_PRECISION"}}
    return tensors, expected, config


def quanto():
    from optimum.quanto import freeze, qfloat8, qint4, qint8, quantize

    tensors, expected = {"norm.weight": torch.ones(8)}, {}
    for name, kind in (("int8", qint8), ("float8", qfloat8), ("int4", qint4)):
        model = torch.nn.Sequential(torch.nn.Linear(128, 16, bias=False))
        quantize(model, weights=kind)
        freeze(model)
        tensors |= {f"{name}.{key.removeprefix('0.')}": value.contiguous() for key, value in model.state_dict().items()}
        if name != "int4":
            expected[f"{name}.weight"] = model[0].weight.dequantize().detach()
    return tensors, expected, {"quantization_config": {"quant_method": "quanto"}}


def torchao():
    from torchao.prototype.safetensors.safetensors_support import flatten_tensor_state_dict
    from torchao.quantization import Float8WeightOnlyConfig, Int8WeightOnlyConfig, quantize_

    tensors, expected = {"norm.weight": torch.ones(8, dtype=torch.bfloat16)}, {}
    for name, options in (("int8", Int8WeightOnlyConfig()), ("float8", Float8WeightOnlyConfig())):
        model = torch.nn.Sequential(torch.nn.Linear(64, 32, bias=False)).bfloat16()
        quantize_(model, options)
        stored, _ = flatten_tensor_state_dict({f"{name}.weight": model[0].weight})
        tensors |= stored
        expected[f"{name}.weight"] = model[0].weight.dequantize()
    # Int4WeightOnlyConfig needs a GPU; its tensors have these names and shapes
    tensors |= {"int4._weight_qdata": torch.zeros(32, 32, dtype=torch.int8), "int4._weight_scale": torch.ones(2, 32, dtype=torch.bfloat16)}
    tensors["int4._weight_zero_point"] = torch.zeros(2, 32, dtype=torch.bfloat16)
    return tensors, expected, {"dtype": "bfloat16", "quantization_config": {"quant_method": "torchao"}}


MAKERS = [
    *(bitsandbytes, nf4_base, nf4_tuned, compressed_tensors, finegrained_fp8, gpt_oss, auto_gptq, gptqmodel, gptqmodel_v2),
    *(awq, mlx, modelopt, quanto, torchao),
]


def main(names: list[str]) -> None:
    torch.set_num_threads(1)
    for make in MAKERS:
        if names and make.__name__ not in names:
            continue
        torch.manual_seed(0)
        with torch.no_grad():
            tensors, expected, config = make()
        folder = HERE / make.__name__
        folder.mkdir(exist_ok=True)
        save_file({name: value.detach().clone() for name, value in tensors.items()}, folder / "model.safetensors", {"format": "pt"})
        (folder / "config.json").write_text(json.dumps(config) + "\n")
        save_file(
            {name: value.detach().clone().contiguous() for name, value in expected.items()}, HERE / f"{make.__name__}.expected.safetensors"
        )
        print(make.__name__, sum(value.nbytes for value in (*tensors.values(), *expected.values())), "bytes")


if __name__ == "__main__":
    main(sys.argv[1:])
