_base_ = ['./mask-rcnn_r50_fpn_1x_coco.py', '../_base_/models/refined_fpn.py']
refine = dict(type='DCN', out_channels=256, kernel_size=3, padding=1)
model = dict(neck=[_base_.model.neck, dict(_base_.bfpn, refine=refine)])
