# The block with both priors. The nl configs remove context, position or both.
_base_ = './fcn_probe.py'
model = dict(
    decode_head=dict(
        type='GCNLHead',
        # Each answer depends on a single key here, so dropping keys only adds noise.
        block=dict(reduction=1, num_heads=4, attn_drop_rate=0.0),
    )
)
