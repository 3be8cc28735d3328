"""Answers that were written to do harm, and what watches how an answer is drawn."""

ATTACKS = [
    "<img src=x onerror=\"window.attacked='img'\">",
    "<svg onload=\"window.attacked='svg'\"><script>window.attacked='svg'</script></svg>",
    "<script>window.attacked='script'</script>",
    "[click](javascript:window.attacked='link')",
    "[click](  JaVaScRiPt:window.attacked='link')",
    "<a href=\"javascript:window.attacked='a'\">click</a>",
    "[click](data:text/html,<script>window.attacked='data'</script>)",
    "![x](https://evil.example/leak.png)",
    "![x](javascript:window.attacked='image')",
    '<iframe srcdoc="<script>parent.attacked=1</script>"></iframe>',
    "<style>body{display:none}</style>",
    "<form action=https://evil.example><input name=key></form>",
    "<math><mtext><img src=x onerror=\"window.attacked='math'\"></mtext></math>",
    "$\\href{javascript:window.attacked='tex'}{x}$",
    "$\\class{evil}{x}\\style{position:fixed}{y}$",
    "```html\n<img src=x onerror=\"window.attacked='code'\">\n```",
    "```\"><img src=x onerror=window.attacked='lang'>\nx\n```",
    "| <img src=x onerror=window.attacked='cell'> | b |\n|---|---|\n| 1 | 2 |",
    '<div style="position:fixed;inset:0">cover</div>',
    "<base href=https://evil.example>",
]
# Counts blocks that are taken away, and changes in those that stood before the last frame.
STEADY = """() => {
    window.steady = {removed: 0, changed: 0};
    const standing = new Set();
    new MutationObserver(records => {
        for (const {target, removedNodes} of records) {
            if (target.matches?.('.markdown')) steady.removed += removedNodes.length;
            if (standing.has(target.closest?.('.markdown > div'))) steady.changed += 1;
        }
        for (const block of document.querySelectorAll('.markdown > div'))
            if (block.nextElementSibling) standing.add(block);
    }).observe(document.body, {subtree: true, childList: true});
}"""
