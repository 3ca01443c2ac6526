"""The collectives that are read from a compiled program's text."""

from __future__ import annotations

from reasoning_jax.tpu import collectives

PROGRAM = """HloModule jit_update, entry_computation_layout={()->f32[]}

%add (a: f32[], b: f32[]) -> f32[] {
  ROOT %sum = f32[]{:T(128)} add(%a, %b)
}

%start (p: bf16[64,8]) -> (bf16[64,8], bf16[64,16]) {
  %all-gather.1 = bf16[64,16]{1,0:T(8,128)(2,1)} all-gather(%p),\
      channel_id=7, replica_groups=[4,2]<=[4,2]T(1,0), dimensions={1}
  ROOT %custom-call.1 = (bf16[64,8]{1,0}, bf16[64,16]{1,0}) custom-call(%all-gather.1)
}

%done (p: bf16[64,8]) -> bf16[64,16] {
  %all-gather.2 = bf16[64,16]{1,0:T(8,128)(2,1)} all-gather(%p),\
      channel_id=7, replica_groups=[4,2]<=[4,2]T(1,0), dimensions={1}
  ROOT %custom-call.2 = bf16[64,16]{1,0} custom-call(%all-gather.2),\
      custom_call_target="AsyncCollectiveDone"
}

%all-reduce-scatter.1 (input: f32[16,32]) -> f32[16,8] {
  %all-reduce.3 = f32[16,32]{1,0} all-reduce(%input),\
      channel_id=9, replica_groups={{0,1,2,3},{4,5,6,7}}, to_apply=%add
  ROOT %dynamic-slice.1 = f32[16,8]{1,0} dynamic-slice(%all-reduce.3, %zero, %at),\
      dynamic_slice_sizes={16,8}
}

%layers.cond (c: (s32[], /*index=1*/bf16[64,8])) -> pred[] {
  %constant.4 = s32[]{:T(128)} constant(5), metadata={op_name="lt"}
  %counter = s32[]{:T(128)} get-tuple-element(%c), index=0
  ROOT %lt.1 = pred[]{:T(512)} compare(%counter, %constant.4), direction=LT, metadata={op_name="lt"}
}

%layers.body (c: (s32[], /*index=1*/bf16[64,8])) -> (s32[], bf16[64,8]) {
  %fusion.1 = (bf16[64,8]{1,0}, bf16[64,16]{1,0}) fusion(%x), kind=kCustom, calls=%start
  %fusion.2 = bf16[64,16]{1,0} fusion(%x), kind=kCustom, calls=%done
  %fusion.3 = f32[16,8]{1,0} fusion(%g), kind=kCustom, calls=%all-reduce-scatter.1
  %while.4 = (s32[]{:T(128)}, bf16[64,16]{1,0}) while(%tuple.6),\
      condition=%ring.cond, body=%ring.body
  ROOT %tuple.1 = (s32[]{:T(128)}, /*index=1*/bf16[64,8]{1,0}) tuple(%n, %y)
}

%ring.cond (c: (s32[], bf16[64,16])) -> pred[] {
  %constant.6 = s32[]{:T(128)} constant(16)
  %counter.3 = s32[]{:T(128)} get-tuple-element(%c), index=0
  ROOT %lt.3 = pred[]{:T(512)} compare(%counter.3, %constant.6), direction=LT
}

%ring.body (c: (s32[], bf16[64,16])) -> (s32[], bf16[64,16]) {
  %counter.4 = s32[]{:T(128)} get-tuple-element(%c), index=0
  %constant.7 = s32[]{:T(128)} constant(2)
  %next.4 = s32[]{:T(128)} add(%counter.4, %constant.7)
  %fusion.4 = bf16[64,16]{1,0} fusion(%x), kind=kCustom, calls=%done
  %cp.1 = bf16[2]{0} collective-permute(%y), channel_id=14, source_target_pairs={{0,1},{1,0}}
  ROOT %tuple.7 = (s32[]{:T(128)}, bf16[64,16]{1,0}) tuple(%next.4, %fusion.4)
}

%step.body (c: (s32[], /*index=1*/bf16[64,8])) -> (s32[], bf16[64,8]) {
  %ag.3 = bf16[64,16]{1,0} all-gather(%p),\
      channel_id=15, replica_groups=mesh['a'=4,'b'=2], device_ids=([2,4]T(1,0)) {'b'}
  ROOT %tuple.8 = (s32[]{:T(128)}, /*index=1*/bf16[64,8]{1,0}) tuple(%n, %y)
}

%decode.cond (c: (s32[], pred[4])) -> pred[] {
  %constant.5 = s32[]{:T(128)} constant(48)
  %all-reduce.4 = u32[]{:T(128)} all-reduce(%done.1),\
      channel_id=11, replica_groups=mesh['axis_0'=4,'axis_1'=2] {'axis_0'}
  %lt.2 = pred[]{:T(512)} compare(%counter.2, %constant.5), direction=LT
  ROOT %and.1 = pred[]{:T(512)} and(%lt.2, %not.1)
}

%decode.body (c: (s32[], pred[4])) -> (s32[], pred[4]) {
  %while.2 = (s32[]{:T(128)}, bf16[64,8]{1,0}) while(%tuple.3),\
      condition=%layers.cond, body=%step.body
  ROOT %tuple.4 = (s32[]{:T(128)}, pred[4]{0}) tuple(%n, %m)
}

ENTRY %main (p: f32[8]) -> f32[] {
  %while.1 = (s32[]{:T(128)}, bf16[64,8]{1,0}) while(%tuple.2),\
      condition=%layers.cond, body=%layers.body
  %rs = f32[4]{0} reduce-scatter(%p),\
      channel_id=12, replica_groups={{0,4},{1,5},{2,6},{3,7}}, dimensions={0}, to_apply=%add
  %cp = (f32[8]{0}, f32[8]{0}, u32[], u32[]) collective-permute-start(%p),\
      channel_id=13, source_target_pairs={{0,1},{1,0}}
  %cpd = f32[8]{0} collective-permute-done(%cp)
  %send = (f32[3,8]{1,0}, u32[], token[]) send(%p, %t),\
      frontend_attributes={_xla_megascale_transfer_type="ALL_REDUCE"}
  %while.3 = (s32[]{:T(128)}, pred[4]{0}) while(%tuple.5), condition=%decode.cond, body=%decode.body
  ROOT %out = f32[]{:T(128)} constant(0)
}
"""


def test_collectives_of_a_program():
    """Asynchronous pieces count once, and loops as often as they run.

    An all-reduce of which a device keeps its piece is a reduce-scatter.
    """
    found = collectives.find(PROGRAM, slice_of=[0, 0, 0, 0, 1, 1, 1, 1])
    once = [c for c in found if not c.repeated]
    step = [c for c in found if c.repeated]
    permuted = 5 * 8  # the inner loop counts to 16 by 2
    assert collectives.by_kind(once) == {
        "all-gather": {"count": 5, "bytes": 5 * 64 * 16 * 2},
        "all-reduce between slices": {"count": 1, "bytes": 96},
        "collective-permute": {"count": 1 + permuted, "bytes": 32 + permuted * 4},
        "reduce-scatter": {"count": 5 + 1, "bytes": 5 * 16 * 32 * 4 + 32},
    }
    assert collectives.by_kind(step) == {
        "all-gather": {"count": 5, "bytes": 5 * 64 * 16 * 2},
        "all-reduce": {"count": 1, "bytes": 4},
    }
    groups = {(c.kind, c.repeated): (c.group, c.slices) for c in found}
    # iota [4, 2] transposed: 0 and 2, 4 and 6, 1 and 3, 5 and 7
    assert groups["all-gather", False] == (2, 1)
    # a mesh of the devices 0, 4, 1, 5, ...: 0 and 4, 1 and 5, ...
    assert groups["all-gather", True] == (2, 2)
    # axis_0 of a mesh: 0, 2, 4, 6
    assert groups["all-reduce", True] == (4, 2)
    scattered = {(c.group, c.slices) for c in once if c.kind == "reduce-scatter"}
    assert scattered == {(4, 1), (2, 2)}
    assert groups["all-reduce between slices", False] == (2, 2)
