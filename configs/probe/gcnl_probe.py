# The whole block. The nl configs take context, position or both away from it.
_base_ = './fcn_probe.py'
model = dict(
    decode_head=dict(
        type='GCNLHead',
        # A relation hangs on one key here: dropping it now and then only blurs the answer.
        block=dict(reduction=1, num_heads=4, attn_drop_rate=0.0),
    )
)
