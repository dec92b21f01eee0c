"""From what the browser sends to what the page shows: `work`'s results as components, its refusals as messages."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from html import escape
from typing import Any

import gradio as gr

from cdam_fast.demo import tables, work
from cdam_fast.demo.pictures import shown_size
from cdam_fast.demo.session import Session

WAITING = tables.status("Drop a photograph or take an example, type words, and press Segment.", "waiting")
CLICK = tables.status("Click a place in a picture to see where its patch attends.", "waiting")

_log = logging.getLogger("cdam_fast.demo")

Shown = dict[Any, Any]
"""What components get; those that are not named stay as they are."""


class Answers:
    """The page's functions, over its components.

    Args:
        session: the model.
        most_bytes: of a photograph's file.
        state: the last result.
        status, caption: lines below the button and above the maps.
        table: of areas.
        views, maps: two pictures each.
    """

    def __init__(
        self,
        session: Session,
        most_bytes: int,
        *,
        state: Any,
        status: Any,
        table: Any,
        caption: Any,
        views: Sequence[Any],
        maps: Sequence[Any],
    ) -> None:
        self.session, self.most_bytes = session, most_bytes
        self.state, self.status, self.table, self.caption = state, status, table, caption
        self.views, self.maps = views, maps
        self.outputs = [state, status, table, caption, *views, *maps]

    def segment(self, photo: Any, words: Any, base: Any, cdam: Any, threshold: Any) -> Shown:
        """Labels, areas, times. photo is as the browser sent it, a file of the upload folder."""
        path = photo.get("path") if isinstance(photo, dict) else None

        def answer() -> Shown:
            result = work.segment(
                self.session,
                path,
                words,
                base,
                cdam=bool(cdam),
                threshold=bool(threshold),
                most_bytes=self.most_bytes,
            )
            return {
                **self.cleared(),
                self.state: result,
                self.status: tables.times(result),
                self.table: tables.table(result),
                **self._pictures(self.views, result.views),
            }

        return _answered(answer, self.status)

    def attend(self, state: Any, event: gr.SelectData) -> Shown:
        """The maps of the patch that was clicked in the photograph."""
        return self._attended(state, event.index, None)

    def attend_in_view(self, state: Any, event: gr.SelectData) -> Shown:
        """The same, clicked in a picture of a result, which has a size of its own."""
        photo = state.photo if isinstance(state, work.Segmented) else None
        return self._attended(state, event.index, None if photo is None else shown_size(photo.shape[2], photo.shape[1]))

    def _attended(self, state: Any, point: Any, shown: tuple[int, int] | None) -> Shown:
        def answer() -> Shown:
            views, patch = work.attend(self.session, state, point, shown)
            return {self.caption: tables.attention_caption(patch), **self._pictures(self.maps, views)}

        return _answered(answer, self.caption)

    def cleared(self) -> Shown:
        """Another photograph: nothing of the last one."""
        pictures = [*self.views, *self.maps]
        return {
            self.state: None,
            self.status: WAITING,
            self.table: "",
            self.caption: CLICK,
            **{picture: gr.update(value=None, visible=picture in self.views) for picture in pictures},
        }

    def _pictures(self, components: Sequence[Any], views: Sequence[work.View]) -> Shown:
        shown = {
            one: gr.update(value=view.picture, label=view.title, visible=True) for one, view in zip(components, views)
        }
        return shown | {one: gr.update(value=None, visible=False) for one in components[len(views) :]}


def _answered(answer: Callable[[], Shown], line: Any) -> Shown:
    """What went well, or a message; whatever was raised, the page goes on."""
    try:
        return answer()
    except work.PageError as refusal:
        message = str(refusal)
    except Exception as error:
        _log.exception("unforeseen, on the page")
        message = f"something went wrong here ({type(error).__name__}); the page goes on"
    gr.Warning(escape(message), title="Not done")
    return {line: tables.refused(message)}
