"""The page in a real browser, with two models of random weights."""

import re
import shutil
import time
import urllib.error
import urllib.request

import pytest
from mmengine.fileio import load

from mmgcnl.analysis.explorer import read_view
from tests.builders import free_port

pytest.importorskip('gradio', reason='the explorer needs gradio')
playwright = pytest.importorskip('playwright.sync_api', reason='it drives the browser')
CHROMIUM = shutil.which('chromium') or shutil.which('chromium-browser')
pytestmark = pytest.mark.skipif(
    CHROMIUM is None, reason='there is no chromium, as of Debian: apt-get install chromium'
)
expect = playwright.expect
WAIT = 60_000  # milliseconds; the machine may be busy


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    """For uploads and saved views."""
    return tmp_path_factory.mktemp('session')


@pytest.fixture(scope='module')
def server(explorer, folder):
    from mmgcnl.analysis.explorer.page import serve

    page = serve(explorer, '127.0.0.1', free_port(), browser=False, folder=folder)
    yield page
    page.close()


@pytest.fixture(scope='module')
def browser():
    expect.set_options(timeout=WAIT)
    with playwright.sync_playwright() as api:
        browser = api.chromium.launch(
            executable_path=CHROMIUM,
            args=[
                *('--no-sandbox', '--disable-gpu', '--disable-background-networking'),
                *('--disable-component-update', '--disable-sync', '--no-first-run'),
            ],
        )
        yield browser
        browser.close()


@pytest.fixture
def tab(browser, server):
    """A tab with the page, which has no error and asks for nothing outside of it."""
    tab = open_tab(browser, server)
    yield tab
    assert not tab.elsewhere
    tab.close()


def open_tab(browser, server, width=1600):
    tab = browser.new_page(viewport=dict(width=width, height=1000))
    tab.set_default_timeout(WAIT)
    tab.elsewhere = []
    tab.on('request', lambda request: note_elsewhere(tab, request.url))
    tab.goto(server.local_url)
    wait_for(tab, 'ours', 'distance')
    return tab


def note_elsewhere(tab, url):
    if not url.startswith(('http://127.0.0.1:', 'data:', 'blob:')):
        tab.elsewhere.append(url)


def wait_for(tab, *texts):
    for text in texts:
        expect(tab.locator('body')).to_contain_text(text)


def wait_for_point(tab, x, y):
    expect(tab.get_by_label('number input for x of the query')).to_have_value(str(x))
    expect(tab.get_by_label('number input for y of the query')).to_have_value(str(y))


def picture(tab, alt, index=0):
    return tab.locator(f'img[alt="{alt}"]:visible').nth(index)


def click(tab, x, y, size=32):
    """Click on a pixel of the image."""
    place = picture(tab, 'the image, with the query marked by a +')
    box, before = place.bounding_box(), place.get_attribute('src')
    place.click(
        position=dict(x=(x + 0.5) / size * box['width'], y=(y + 0.5) / size * box['height'])
    )
    wait_for_point(tab, x, y)
    wait_until(lambda: place.get_attribute('src') != before)


def numbers(tab):
    """Share on the top tenth in per cent, and the maximum, of each panel in turn."""
    text = tab.locator('body').inner_text()
    found = re.findall(r'keys: (\d+)% .*?maximum ([\d.]+) times', text, re.DOTALL)
    return [(int(share), float(peak)) for share, peak in found]


def expected_numbers(explorer, image, point, **options):
    looks = explorer.looks(explorer.view(image, point, **options))
    found = []
    for look in looks:
        peak = float(f'{look.weights.mean(0).max():.3g}')
        found.append((int(f'{look.top_tenth[0]:.0%}'[:-1]), peak))
    return found


def test_click_shows_the_attention_of_its_query(tab, explorer):
    heads = 'the attention of each head, and the scale'
    before = picture(tab, heads).get_attribute('src')
    click(tab, 3, 27)
    wait_until(lambda: picture(tab, heads).get_attribute('src') != before)
    found = numbers(tab)
    assert found == expected_numbers(explorer, explorer.images[0], (3, 27))
    # They are those of the block itself.
    model = explorer.models[0]
    x = model.scene(explorer.images[0]).inputs['decode_head.block']
    weights = model.blocks['decode_head.block'].attention_weights(x)[0, :, 12].mean(0)
    assert found[0][1] == pytest.approx(weights.max().item() * 16, rel=5e-3)
    click(tab, 28, 2)
    wait_until(lambda: numbers(tab) != found)


def wait_until(condition):
    end = time.monotonic() + WAIT / 1000
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


def test_attention_is_that_of_the_point_after_quick_clicks(tab, explorer):
    """The browser may ignore a click while the picture is exchanged, but not mix two."""
    place = picture(tab, 'the image, with the query marked by a +')
    box = place.bounding_box()
    for x in range(2, 32, 3):
        tab.mouse.click(
            box['x'] + (x + 0.5) / 32 * box['width'], box['y'] + box['height'] / 2
        )
        time.sleep(0.05)

    def agree():
        x = int(tab.get_by_label('number input for x of the query').input_value())
        image = explorer.images[0]
        return x != 16 and numbers(tab) == expected_numbers(explorer, image, (x, 16))

    wait_until(agree)


def test_query_by_keyboard(tab):
    click(tab, 10, 10)
    slider = tab.get_by_label('range slider for x of the query')
    slider.focus()
    before = numbers(tab)
    for _ in range(14):
        slider.press('ArrowRight')
    wait_for_point(tab, 24, 10)
    wait_until(lambda: numbers(tab) != before)


def test_change_leaves_the_model_as_it_is_beside_it(tab, explorer):
    mean = 'the attention, mean of the heads'
    click(tab, 12, 12)
    before = [picture(tab, mean, i).get_attribute('src') for i in range(2)]
    as_it_is = numbers(tab)
    tab.get_by_label('attention uniform').check()
    wait_for(tab, 'ours, attention uniform', 'Every key has the same weight.')
    found = numbers(tab)
    assert found[0] == as_it_is[0] and found[2] == as_it_is[1]
    assert found[1] == found[3] == (12, 1.0)  # 2 of 16 keys
    assert tab.locator(f'img[alt="{mean}"]:visible').count() == 4
    tab.get_by_label('as it is').check()
    expect(tab.get_by_text('ours, attention uniform')).to_have_count(0)
    assert [picture(tab, mean, i).get_attribute('src') for i in range(2)] == before


def test_context_of_a_chosen_image(tab, explorer):
    tab.get_by_label('Image', exact=True).click()
    tab.get_by_role('option', name='images/3.png').click()
    image = explorer.images[2]
    wait_until(lambda: numbers(tab) == expected_numbers(explorer, image, (16, 16)))
    tab.get_by_label('context swapped').check()
    wait_for(tab, 'ours, context swapped')
    first = numbers(tab)
    tab.get_by_label('Image whose context is taken').click()
    tab.get_by_role('option', name='images/5.png').click()
    options = dict(ablation='context swapped', others=(explorer.images[4],))
    expected = expected_numbers(explorer, image, (16, 16), **options)
    wait_until(lambda: numbers(tab) == expected)
    assert expected != first


def test_overlays(tab):
    left = 'the image, with the query marked by a +'
    seen = {picture(tab, left).get_attribute('src')}
    for name in ('prediction', 'ground truth'):
        tab.get_by_label(name, exact=True).check()
        wait_until(lambda: picture(tab, left).get_attribute('src') not in seen)
        seen.add(picture(tab, left).get_attribute('src'))
    assert len(seen) == 3


def upload(tab, path):
    with tab.expect_file_chooser() as chooser:
        tab.get_by_role('button', name='An image of your own').click()
    chooser.value.set_files(path)


def test_upload_and_save(tab, explorer, folder, tmp_path):
    path = tmp_path / 'attention.png'  # as the picture that is saved
    shutil.copy(explorer.images[3], path)
    expected = expected_numbers(explorer, str(path), (16, 16))
    assert numbers(tab) != expected
    upload(tab, path)
    wait_until(lambda: numbers(tab) == expected)
    tab.get_by_role('button', name='Save this view').click()
    saved = {}
    expect(tab.locator('a[download]')).to_have_count(3)
    for link in tab.locator('a[download]').all():
        with tab.expect_download() as download:
            link.click()
        saved[download.value.suggested_filename] = (
            tmp_path / 'saved' / (download.value.suggested_filename)
        )
        download.value.save_as(saved[download.value.suggested_filename])
    assert set(saved) == {'attention.png', 'view.json', 'image.png'}
    view = read_view(saved['view.json'])
    assert view.image == str(saved['image.png'])
    assert view.point == (16, 16)
    assert load(saved['view.json'])['models'][1]['name'] == 'plain'
    assert saved['image.png'].read_bytes() == path.read_bytes()
    # What was uploaded is in the session's folder and nowhere else.
    assert list(folder.rglob('image.png'))


@pytest.mark.parametrize(
    ('name', 'content', 'message'),
    [
        ('text.png', b'no image', 'text.png is not an image that can be read'),
        (
            'huge.png',
            b'P4 20000 3000\n',
            '20000 x 3000 pixels: give an image of at',
        ),
        ('tiny.png', b'P4 1 1\n\0', 'ours fails on tiny.png: '),
        ('bomb.png', b'P4 40000 40000\n', 'bomb.png is not an image that can be read'),
    ],
)
def test_bad_upload_changes_nothing(name, content, message, tab, tmp_path):
    before = numbers(tab)
    (tmp_path / name).write_bytes(content)
    upload(tab, tmp_path / name)
    wait_for(tab, message)
    assert numbers(tab) == before


def test_two_tabs_do_not_meet(tab, browser, server, explorer):
    other = open_tab(browser, server)
    for x in (4, 13, 22, 28):
        click(tab, x, 5)
        click(other, x, 25)
    tab.get_by_label('position zeroed').check()
    other.get_by_label('attention uniform').check()
    wait_for(tab, 'ours, position zeroed')
    wait_for(other, 'ours, attention uniform')
    image = explorer.images[0]
    expected = expected_numbers(explorer, image, (28, 5), ablation='position zeroed')
    wait_until(lambda: numbers(tab) == expected)
    expected = expected_numbers(explorer, image, (28, 25), ablation='attention uniform')
    wait_until(lambda: numbers(other) == expected)
    other.close()


@pytest.mark.parametrize('width', [400, 1600])
def test_nothing_is_wider_than_the_window(width, browser, server):
    tab = open_tab(browser, server, width)
    assert tab.evaluate('document.documentElement.scrollWidth') <= width
    assert not tab.elsewhere
    tab.close()


def test_no_file_of_the_machine_is_served(server, explorer):
    for path in (__file__, explorer.sources[0].config, explorer.images[0], '/etc/hosts'):
        with pytest.raises(urllib.error.HTTPError) as stop:
            urllib.request.urlopen(f'{server.local_url}gradio_api/file={path}')
        assert stop.value.code == 403
