_base_ = ['./panoptic-fpn_r50_fpn_1x_coco.py', '../_base_/models/refined_fpn.py']
model = dict(neck=[_base_.model.neck, _base_.ebfpn])
