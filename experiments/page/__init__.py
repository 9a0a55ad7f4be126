"""One HTML file to draw on: what each run answers, how it computes, and what was found.

    python -m experiments.page RUN [RUN ...] --out page.html

    contents.py      what the page holds of runs and of a study, as plain values
    build.py         puts it into page.html.jinja, with the style sheet and the modules
    main.js          opens what was embedded, passes each drawing to the networks and to the views
    weights.js       weights and images out of the texts in which they travel
    forward.js       the forward pass, as in mnist_jax/model.py
    digits.js        a drawing as MNIST would have stored it, as in mnist_jax/digits.py
    drawing.js       strokes of the pen, undo, a test image under them
    answers.js, layers.js, found.js, curves.js, maps.js, dom.js      what is seen

The page makes no request: a Content-Security-Policy in it forbids all of them, and every script but
its own. Three networks make about 1 MB. Each epoch that a run kept adds another 0.2 to 0.4 MB, and
a study adds its figures.
"""
