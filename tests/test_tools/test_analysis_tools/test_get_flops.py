"""The command line of tools/analysis_tools/get_flops.py."""

import json
import subprocess
import sys

from mmengine.config import Config

from tests.builders import ROOT


def test_tool_prints_json_alone():
    command = [sys.executable, 'tools/analysis_tools/get_flops.py', '--json']
    command += ['configs/probe/nl_probe.py', '--shape', '48', '32']
    out = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    channels = Config.fromfile(ROOT / command[3]).model.decode_head.channels
    result = json.loads(out)
    assert result['shape'] == [48, 32]
    assert result['attention_flops'] == 2 * (12 * 8) ** 2 * channels
