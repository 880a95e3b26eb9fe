_base_ = [
    'mmdet::_base_/models/retinanet_r50_fpn.py',
    '../_base_/datasets/coco_detection.py',
    '../_base_/models/refined_fpn.py',
    '../_base_/schedules/schedule_1x.py',
    '../_base_/det_runtime.py',
]
# The pyramid begins at stride 8: level 1 has stride 16, as level 2 in Mask R-CNN. mmdet's
# Libra RetinaNet refines the same level.
model = dict(neck=[_base_.model.neck, dict(_base_.ebfpn, refine_level=1)])
