"""One HTML file to draw on: what each run answers, how it computes, and what was found.

    python -m experiments.page RUN [RUN ...] --out page.html

`contents.py` gathers what the page holds from runs and a study, and `build.py` puts it into
`page.html.jinja` together with the style sheet and the JavaScript modules. The page asks for
nothing: a Content-Security-Policy in it forbids every request and every script but its own.
"""
