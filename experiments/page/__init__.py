"""Makes one HTML file to draw on, with each network's answers, computation and mistakes.

    python -m experiments.page RUN [RUN ...] --out page.html

    contents.py      gathers what the page holds of each network, as plain values
    build.py         puts it into page.html.jinja, with the style sheet and the modules
    main.js          opens what was embedded, passes each drawing to the networks and to the views
    weights.js       decodes the weights and images that are embedded as text
    forward.js       computes the forward pass, as mnist_jax/model.py does
    digits.js        turns a drawing into an image of MNIST, as mnist_jax/digits.py does
    drawing.js       handles strokes of the pen, undo, and a test image under them
    ink.js           computes the ink of strokes
    answers.js, layers.js, epochs.js, mistakes.js, maps.js, dom.js      show everything

The page makes no request: a Content-Security-Policy in it forbids all requests, and all scripts
except its own. Three networks make about 1 MB, and each epoch that a run kept adds another 0.2 to
0.4 MB.
"""
