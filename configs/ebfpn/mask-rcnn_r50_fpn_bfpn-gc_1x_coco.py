# A ratio above one widens the block to 1024 planes, as the paper's parameter count implies.
_base_ = ['./mask-rcnn_r50_fpn_1x_coco.py', '../_base_/models/refined_fpn.py']
refine = dict(type='ContextBlock', ratio=4)
model = dict(neck=[_base_.model.neck, dict(_base_.bfpn, refine=refine)])
