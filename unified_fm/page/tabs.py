"""The page: a tab for each thing that the checkpoint can do, in Gradio's widgets.

Gradio is an extra (`[page]`), and given as an argument: nothing here imports it.
"""

import functools
import json
from collections.abc import Callable, Sequence
from typing import Any

from unified_fm.page import asking

NAMES = {  # of the tabs, by the methods that they ask
    "match": "Match",
    "search": "Find",
    "locate": "Locate",
    "fill_mask": "Masked words",
    "answer": "Ask",
    "caption": "Describe",
}
Samples = Sequence[tuple[str, str]]  # (path of an image, its caption)
_NOT_HERE = (
    "There is no tab for what this checkpoint cannot do. Whatever it can, also what no tab is for, "
    "`unified-fm predict` asks."
)
_KEEP = ["download", "fullscreen"]  # not "share", which sends what is shown to a hub
# Small images are shown larger.
STYLE = ".image-frame img, #box img { width: 100%; height: 100%; object-fit: contain; }"
_BOX_SAYS = "A box is given for anything: the model has no confidence in a box of its own."
_MATCH_SAYS = "How probable it is that text and image, as a whole, fit."


def build(model: Any, gr: Any, samples: Samples = ()) -> Any:
    """The page of a model, a `gradio.Blocks` that nothing listens for yet.

    Args:
        model: what `unified_fm.load` gives.
        gr: the module gradio.
        samples: to click on.
    """
    tabs = (_match, _find, _locate, _masked_words, _ask, _describe)
    page = gr.Blocks(analytics_enabled=False, title="unified_fm", delete_cache=(3600, 3600))
    with page:
        gr.Markdown(f"# unified_fm: {model.info['model']}")
        if lines := absent(model):
            gr.Markdown("\n".join([f"{_NOT_HERE}\n", *(f"- {line}" for line in lines)]))
        for (task, name), tab in zip(NAMES.items(), tabs, strict=True):
            if task in model.tasks:
                with gr.Tab(name):
                    tab(model, gr, samples)
        with gr.Tab("About"):
            gr.Markdown("What this checkpoint is: `unified_fm.load(...).info`.")
            gr.Code(json.dumps(model.info, indent=1, default=str), language="json", label="info")
    # One answer at a time, and eight that wait; others are told that the page is busy.
    page.queue(max_size=8, default_concurrency_limit=1)
    return page


def absent(model: Any) -> list[str]:
    """A line for each tab that a model has none of: its name, what is missing, what trains it."""
    lacks = model.info["lacks"]
    return [f"{name}: {lacks[task]}" for task, name in NAMES.items() if task in lacks]


def _match(model: Any, gr: Any, samples: Samples) -> None:
    gr.Markdown(_MATCH_SAYS)
    with gr.Row():
        with gr.Column():
            image, text = _picture(gr), gr.Textbox(label="Text")
            button = gr.Button("Match", variant="primary")
        out = gr.Label(label="Probability")
    _on(gr, button, text, functools.partial(asking.match, model), [image, text], out, "match")
    _examples(gr, [list(sample) for sample in samples], [image, text])


def _find(model: Any, gr: Any, samples: Samples) -> None:
    gallery = gr.Gallery(
        value=[path for path, _ in samples] or None,
        label=f"Gallery (at most {asking.MOST_IMAGES} images)",
        file_types=["image"],
        format="png",
        buttons=[],
        columns=6,
        height=180,
        interactive=True,
        sources=["upload"],
    )
    _as_paths(
        gallery, lambda given: [item.image.path for item in given.root if "image" in _of(item)]
    )
    with gr.Row():
        with gr.Column():
            text = gr.Textbox(label="Text to find")
            image = _picture(gr, "or image to find")
            k = gr.Slider(1, asking.MOST_HITS, value=3, step=1, label="Hits")
            button = gr.Button("Find", variant="primary")
        out = gr.Gallery(
            label="Hits, best first", format="png", columns=3, buttons=_KEEP, interactive=False
        )
    given = [gallery, text, image, k]
    _on(gr, button, text, functools.partial(asking.find, model), given, out, "find")
    _examples(gr, [[text] for _, text in samples], [text])


def _locate(model: Any, gr: Any, samples: Samples) -> None:
    gr.Markdown(_BOX_SAYS)
    with gr.Row():
        with gr.Column():
            image, phrase = _picture(gr), gr.Textbox(label="Phrase")
            button = gr.Button("Locate", variant="primary")
        with gr.Column():
            drawn = gr.Image(
                label="Box",
                format="png",
                height=240,
                buttons=_KEEP,
                interactive=False,
                elem_id="box",
            )
            told = gr.Textbox(label="Where")
    ask = functools.partial(asking.locate, model)
    _on(gr, button, phrase, ask, [image, phrase], [drawn, told], "locate")
    things = [[path, text.split(" and ")[-1].split(", ")[-1]] for path, text in samples]
    _examples(gr, things, [image, phrase])


def _masked_words(model: Any, gr: Any, samples: Samples) -> None:
    alone, over = (model.has(form) for form in asking.FORMS)
    with gr.Row():
        with gr.Column():
            text = gr.Textbox(label="Text with [MASK]")
            image = _picture(gr, "Image", visible=over)
            button = gr.Button("Fill", variant="primary")
        from_text = gr.Label(label="From the text alone", visible=alone)
        from_both = gr.Label(label="With the image", visible=over)

    def words(text: str, path: str | None) -> tuple[Any, Any]:
        if path is None and not alone:
            raise ValueError("this model fills masks with an image only: upload one")
        return (
            asking.words(model, text, None) if alone else None,
            asking.words(model, text, path) if over and path is not None else None,
        )

    _on(gr, button, text, words, [text, image], [from_text, from_both], "fill_mask")
    masked = [[f"{text.rpartition(' ')[0]} [MASK]", path] for path, text in samples]
    if over:
        _examples(gr, masked, [text, image])


def _ask(model: Any, gr: Any, samples: Samples) -> None:
    with gr.Row():
        with gr.Column():
            image, question = _picture(gr), gr.Textbox(label="Question")
            button = gr.Button("Ask", variant="primary")
        out = gr.Label(label="Answers")
    ask = functools.partial(asking.answer, model)
    _on(gr, button, question, ask, [image, question], out, "ask")
    _examples(gr, [[path] for path, _ in samples], [image])


def _describe(model: Any, gr: Any, samples: Samples) -> None:
    with gr.Row():
        with gr.Column():
            image = _picture(gr)
            button = gr.Button("Describe", variant="primary")
        out = gr.Textbox(label="Description")
    _on(gr, button, None, functools.partial(asking.describe, model), [image], out, "describe")
    _examples(gr, [[path] for path, _ in samples], [image])


def _picture(gr: Any, label: str = "Image", visible: bool = True) -> Any:
    """An image to upload. Its file is left as it is: `unified_fm` itself says what is wrong."""
    image = gr.Image(
        label=label, type="filepath", sources=["upload"], height=240, visible=visible, buttons=[]
    )
    _as_paths(image, lambda given: given.path)
    return image


def _as_paths(component: Any, paths: Callable[[Any], Any]) -> None:
    """Makes a component give the path of what was uploaded, where Gradio would decode it."""
    component.preprocess = lambda given: None if given is None else paths(given)


def _of(item: Any) -> set[str]:
    return set(type(item).model_fields)


def _on(
    gr: Any, button: Any, text: Any, ask: Callable[..., Any], given: Any, out: Any, name: str
) -> None:
    """Asks at the button, at Enter and by HTTP; a ValueError is shown as a sentence."""

    def answer(*arguments: Any) -> Any:
        try:
            return ask(*arguments)
        except (ValueError, OSError) as error:
            raise gr.Error(str(error), print_exception=False) from error

    asked = [button.click] if text is None else [button.click, text.submit]
    gr.on(asked, answer, given, out, api_name=name)


def _examples(gr: Any, rows: list[list[str]], components: list[Any]) -> None:
    if rows:
        gr.Examples(rows, components, cache_examples=False, label="From the demo corpus")
