# An FCN on EfficientNet-Lite0 with ImageNet weights, at an output stride of 16. The batch
# norm of the backbone keeps ImageNet's statistics: 8 images are few.
model = dict(
    type='EncoderDecoder',
    data_preprocessor=dict(
        type='SegDataPreProcessor',
        mean=[127, 127, 127],
        std=[128, 128, 128],
        bgr_to_rgb=True,
        pad_val=127,
        seg_pad_val=255,
    ),
    backbone=dict(
        type='EfficientNetLite0', out_indices=(6,), output_stride=16, norm_eval=True
    ),
    decode_head=dict(
        type='FCNHead',
        in_channels=320,
        channels=128,
        num_classes=21,
        dropout_ratio=0.1,
        norm_cfg=dict(type='BN'),
        align_corners=False,
        loss_decode=dict(type='CrossEntropyLoss'),
    ),
    train_cfg=dict(),
    test_cfg=dict(mode='whole'),
)
