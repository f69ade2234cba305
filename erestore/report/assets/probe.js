"use strict";
/* The page of a probe: figures, and nothing to choose. */
erestore.start().then(() => { document.documentElement.dataset.ready = "all"; });
