"""Two states of one model under different names: every weight is compared with itself, or it is named as left out."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from checkpoints import synthetic
from hypothesis import given, settings
from hypothesis import strategies as st

from dynamics.checkpoints import alignment, open_checkpoint
from dynamics.checkpoints.coverage import coverage
from dynamics.checkpoints.matching import match
from dynamics.errors import InputError

PREFIXES = ["model", "", "transformer", "model.language_model", "language_model.model", "backbone", "some.words", "x"]
TOWERS = ["visual", "model.visual", "vision_tower", "model.vision_tower.vision_model", "image_part"]
TWINS = ["decoder", "model.decoder", "draft", "y", "model.other"]

architectures = st.builds(
    synthetic.Architecture,
    layers=st.integers(1, 3),
    width=st.sampled_from([4, 6]),
    inner=st.sampled_from([4, 6, 10]),
    heads_width=st.sampled_from([2, 4, 6]),
    experts=st.sampled_from([0, 0, 3]),
    vision=st.sampled_from([0, 4, 6, 8]),
    twin=st.booleans(),
    tied=st.booleans(),
    bias=st.booleans(),
)
styles = st.builds(
    synthetic.Style,
    text=st.sampled_from(PREFIXES),
    stack=st.sampled_from(["layers", "layers", "h"]),
    vision=st.sampled_from(TOWERS),
    twin=st.sampled_from(TWINS),
    block=st.sampled_from(["mlp", "block_sparse_moe"]),
    wrapper=st.sampled_from(["", "", "module.", "_orig_mod."]),
    fuse_qkv=st.sampled_from(["", "", "rows", "heads"]),
    fuse_gate_up=st.booleans(),
    stack_experts=st.sampled_from(["", "out in", "in out"]),
    first_layer=st.sampled_from([0, 0, 0, 1]),
    store_tied_head=st.booleans(),
    rows=st.sampled_from([12, 12, 10]),
    buffers=st.booleans(),
    value_head=st.booleans(),
    quantised=st.sampled_from(["", "", "FP8", "FP8, a scale lost"]),
)


def lost_weights(architecture, styles_of_sides):
    """Match two states; return the values of each side's weights that were not compared, after checking those that were."""
    states = [synthetic.write(architecture, style) for style in styles_of_sides]
    found = match(*(open_checkpoint(synthetic.stored(state, style)) for state, style in zip(states, styles_of_sides, strict=True)))
    for pair in found.pairs:
        assert np.array_equal(pair.base.values(), pair.tuned.values()), (pair.name, pair.base.name, pair.tuned.name)
    compared = np.concatenate([pair.base.values() for pair in found.pairs])
    lost = {}
    for side, state in zip(("base", "tuned"), states, strict=True):
        weights = np.concatenate([value.reshape(-1) for value in state.values()])
        lost[side] = np.setdiff1d(weights[np.isfinite(weights)], compared)  # without buffers, and each tied weight once
    return found, compared, lost


def check_that_weights_are_compared_with_themselves_or_named(architecture, base_style, tuned_style):
    try:
        found, compared, lost = lost_weights(architecture, (base_style, tuned_style))
    except InputError:
        return  # refused
    if not architecture.tied or any("tied" in skip.reason for skip in found.skipped):
        assert len(np.unique(compared)) == len(compared)  # none twice
    for side, weights in lost.items():
        skipped = [skip for skip in found.skipped if skip.where == side]
        named = sum(skip.numel for skip in skipped)
        assert named >= len(weights) if architecture.tied else named == len(weights)
        by_design = sum(skip.numel for skip in skipped if skip.by_design)
        assert (coverage(side, len(compared), found.skipped) < 1) == (len(weights) > by_design)


def check_that_no_weight_is_left_out_without_a_reason(architecture, base_style, tuned_style):
    """With one stack of layers that is numbered from 0, and known orders of rows, all weights find their counterparts."""
    architecture = replace(architecture, twin=False)
    plain = {"first_layer": 0, "rows": 12, "value_head": False}
    plain |= {"fuse_qkv": base_style.fuse_qkv.replace("heads", "rows"), "quantised": base_style.quantised[:3]}
    base_style = replace(base_style, **plain, stack_experts=base_style.stack_experts.replace("in out", "out in"))
    rows_of_tuned = tuned_style.fuse_qkv.replace("heads", "rows")
    turned = tuned_style.stack_experts if base_style.stack_experts else tuned_style.stack_experts.replace("in out", "out in")
    tuned_style = replace(tuned_style, **plain | {"fuse_qkv": rows_of_tuned, "quantised": tuned_style.quantised[:3]}, stack_experts=turned)
    _, _, lost = lost_weights(architecture, (base_style, tuned_style))
    assert [len(weights) for weights in lost.values()] == [0, 0]


CHECKS = [check_that_weights_are_compared_with_themselves_or_named, check_that_no_weight_is_left_out_without_a_reason]


@pytest.mark.parametrize("check", CHECKS)
@settings(max_examples=25, deadline=None, derandomize=True)
@given(architectures, styles, styles)
def test_two_states_of_one_model(check, architecture, base_style, tuned_style):
    check(architecture, base_style, tuned_style)


@pytest.mark.slow
@pytest.mark.parametrize("check", CHECKS)
@settings(max_examples=3000, deadline=None)
@given(architectures, styles, styles)
def test_many_states_of_one_model(check, architecture, base_style, tuned_style):
    check(architecture, base_style, tuned_style)


def test_numbers_with_zeros_before_them_are_other_names():
    base = {f"model.layers.{n}.{m}.weight": (4, 2) for n in (0, 1) for m in ("q_proj", "up_proj")}
    tuned = {"model.language_model.layers.0.q_proj.weight": (4, 2), "model.language_model.layers.00.up_proj.weight": (4, 2)}
    assert set(alignment.align(base, tuned).renamed) <= set(tuned)
