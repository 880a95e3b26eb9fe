_base_ = './panoptic-fpn_r50_fpn_3x_coco.py'
model = dict(neck=[_base_.model.neck, dict(type='EBFPN', in_channels=256, num_levels=5)])
