# Assumed: mmdet's SELayer with its defaults, ratio 16.
_base_ = ['./mask-rcnn_r50_fpn_1x_coco.py', '../_base_/models/refined_fpn.py']
refine = dict(type='SEBlock')
model = dict(neck=[_base_.model.neck, dict(_base_.bfpn, refine=refine)])
