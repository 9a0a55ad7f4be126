"""Makes one HTML file to draw on, with each network's answers, computation and mistakes.

    python -m experiments.page RUN [RUN ...] --out page.html

    contents.py      gathers what the page holds of each network, as plain values
    build.py         puts it into page.html.jinja, with the style sheet and the modules
    main.js          opens what was embedded, passes each drawing to the networks and to the views
    weights.js       decodes the weights and images that are embedded as text
    forward.js       computes the forward pass, as mnist_jax/model.py does
    digits.js        turns a drawing or a picture into images of MNIST, as mnist_jax/digits.py does
    drawing.js       handles strokes of the pen, undo and redo, and an image under them
    ink.js           computes the ink of strokes
    pictures.js      takes pictures that are chosen, pasted or dropped
    share.js         keeps the drawing in the page's address, and copies it
    explain.js       says what a number of a layer is made of
    answers.js, layers.js, cells.js, epochs.js, mistakes.js, maps.js, dom.js      show everything

The page makes no request: a Content-Security-Policy in it forbids all requests, and all scripts
except its own. Three networks make about 1 MB, and each epoch that a run kept adds another 0.2 to
0.4 MB.
"""
