"""What every operator does to channel labels.

Data movement is applied to the labels themselves, so no reshape needs a rule of its own.
Element-wise operators join what they meet. Convolutions and matrix products join the labels they
contract with their weight's, and write the weight's other side. An operator that mixes channels
without a weight, or that nobody has taught, freezes what it touches.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from latprune.graph.rules.attention import attention, batched_product, vector_product
from latprune.graph.rules.mixing import along, reduction, regions, spatial, unpooling
from latprune.graph.rules.moving import (
    channel_shuffle,
    concatenation,
    filled_rows,
    from_patches,
    gated_halves,
    gathered,
    indexed,
    looked_up,
    made_anew,
    movement,
    padding,
    patches,
    picked,
    rearranged,
    restrided,
    sliced,
    stacked,
    two_parts,
)
from latprune.graph.rules.pointwise import elementwise
from latprune.graph.rules.weights import (
    batch_norm,
    convolution,
    deformable,
    distances,
    group_norm,
    layer_norm,
    linear,
    matrix_product,
    one_number,
    recurrent,
    weight_norm,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

    from latprune.graph.labels import Call, LabelMode, Rule


def unknown(mode: LabelMode, call: Call) -> None:
    """Element-wise by its tag, harmless without labels, or frozen."""
    if torch.Tag.pointwise in getattr(call.func, "tags", ()):
        elementwise(mode, call)
        return
    for tensor in call.inputs:
        for shadow in mode.shadows(tensor):
            mode.freeze(shadow, f"no rule for {call.name}")
    mode.seen.leave_unpriced(call.name)


_BY_RULE: dict[Rule, str] = {
    convolution: "convolution _convolution mkldnn_convolution cudnn_convolution",
    deformable: "deform_conv2d",
    matrix_product: "mm addmm",
    linear: "linear",
    distances: "_cdist_forward _euclidean_dist",
    recurrent: "mkldnn_rnn_layer",
    weight_norm: "_weight_norm_interface",
    one_number: "dot vdot",
    batched_product: "bmm baddbmm",
    vector_product: "mv",
    attention: "_scaled_dot_product_flash_attention_for_cpu _scaled_dot_product_flash_attention "
    "_scaled_dot_product_efficient_attention _scaled_dot_product_cudnn_attention "
    "_scaled_dot_product_attention_math _scaled_dot_product_fused_attention_overrideable",
    batch_norm: "native_batch_norm batch_norm cudnn_batch_norm miopen_batch_norm "
    "_native_batch_norm_legit _native_batch_norm_legit_no_training _batch_norm_with_update "
    "_batch_norm_no_update",
    layer_norm: "native_layer_norm _fused_rms_norm",
    group_norm: "native_group_norm",
    elementwise: "clone _to_copy contiguous alias detach lift_fresh dropout native_dropout "
    "zeros_like ones_like empty_like rand_like randn_like full_like copy fill zero masked_fill "
    "hardtanh hardswish hardsigmoid relu relu6 gelu silu mish softplus elu leaky_relu clamp "
    "prelu _prelu_kernel rsub bernoulli add sub mul div complex polar _conj floor_divide "
    "rrelu_with_noise log_sigmoid_forward",
    movement: "view _unsafe_view reshape _reshape_alias permute transpose t unsqueeze squeeze "
    "expand repeat pixel_shuffle pixel_unshuffle movedim swapaxes",
    picked: "select unbind index_select",
    indexed: "index",
    filled_rows: "index_put _index_put_impl _unsafe_index_put",
    looked_up: "embedding",
    gathered: "gather scatter scatter_add scatter_reduce index_add index_copy",
    rearranged: "roll flip unfold rot90",
    channel_shuffle: "channel_shuffle native_channel_shuffle",
    restrided: "as_strided",
    two_parts: "view_as_real view_as_complex",
    made_anew: "new_zeros new_ones new_full new_empty new_empty_strided",
    patches: "im2col",
    from_patches: "col2im",
    sliced: "slice split split_with_sizes unsafe_split unsafe_split_with_sizes narrow",
    concatenation: "cat",
    stacked: "stack",
    gated_halves: "glu",
    padding: "constant_pad_nd",
    spatial: "avg_pool1d avg_pool2d avg_pool3d max_pool2d max_pool2d_with_indices "
    "max_pool3d_with_indices adaptive_avg_pool2d _adaptive_avg_pool2d adaptive_max_pool2d "
    "_adaptive_avg_pool3d upsample_nearest2d _upsample_nearest_exact2d upsample_bilinear2d "
    "upsample_bicubic2d _upsample_bilinear2d_aa _upsample_bicubic2d_aa upsample_linear1d "
    "upsample_nearest1d _upsample_nearest_exact1d upsample_trilinear3d upsample_nearest3d "
    "_upsample_nearest_exact3d adaptive_max_pool3d reflection_pad1d reflection_pad2d "
    "reflection_pad3d replication_pad1d replication_pad2d replication_pad3d",
    unpooling: "max_unpool2d max_unpool3d",
    regions: "roi_align roi_pool grid_sampler_2d grid_sampler_3d",
    along: "_softmax _safe_softmax _log_softmax cumsum cumprod logcumsumexp cummax cummin sort "
    "topk _fft_r2c _fft_c2r _fft_c2c",
    reduction: "mean sum amax amin max min var std var_mean std_mean prod logsumexp "
    "linalg_vector_norm norm argmax argmin any all median nanmedian mode kthvalue",
}
RULES: Mapping[str, Rule] = {
    name: rule for rule, names in _BY_RULE.items() for name in names.split()
}
