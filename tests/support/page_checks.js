// Lists what a page shows badly in the window as it is: too wide, unreadable, unnamed, or a range of figures cut in two.
(() => {
  const faults = [];
  const root = document.documentElement;
  const about = (element) => `${element.tagName.toLowerCase()} "${element.textContent.trim().slice(0, 50)}"`;
  const isShown = (element) => element.checkVisibility({ visibilityProperty: true });
  const numbers = (colour) => (colour.match(/[\d.]+/g) || []).map(Number);
  const behind = (element) => {
    for (let at = element; at; at = at.parentElement) {
      const colour = numbers(getComputedStyle(at).backgroundColor);
      if (colour.length === 3 || colour[3] > 0.5) return colour;
    }
    return [255, 255, 255];
  };
  const luminance = (colour) => {
    const linear = colour.slice(0, 3).map((part) => (part <= 10 ? part / 255 / 12.92 : ((part / 255 + 0.055) / 1.055) ** 2.4));
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2];
  };
  const contrast = (one, other) => {
    const [dark, light] = [luminance(one), luminance(other)].sort((a, b) => a - b);
    return (light + 0.05) / (dark + 0.05);
  };

  if (root.scrollWidth > innerWidth) faults.push(`the page is ${root.scrollWidth} wide in a window of ${innerWidth}`);
  for (const element of document.querySelectorAll("main *")) {
    if (element.closest("svg, pre, .scroll") || !isShown(element)) continue;
    if (element.getBoundingClientRect().right > root.clientWidth + 1) faults.push(`sticks out: ${about(element)}`);
  }
  for (const image of document.images) if (!image.alt && isShown(image)) faults.push(`no alternative text: ${image.src.slice(0, 60)}`);
  for (const chart of document.querySelectorAll("svg")) {
    if (!chart.getAttribute("aria-label")) faults.push(`a chart without a name: ${about(chart)}`);
  }
  const texts = document.createTreeWalker(document.querySelector("main"), NodeFilter.SHOW_TEXT);
  while (texts.nextNode()) {
    const node = texts.currentNode;
    const element = node.parentElement;
    if (!node.data.trim() || element.closest("svg, script, style, details:not([open]) > :not(summary)") || !isShown(element)) continue;
    const style = getComputedStyle(element);
    const size = parseFloat(style.fontSize);
    const least = size >= 24 || (size >= 18.6 && style.fontWeight >= 700) ? 3 : 4.5;
    const ratio = contrast(numbers(style.color), behind(element));
    if (ratio < least) faults.push(`contrast ${ratio.toFixed(1)}: ${about(element)}`);
    for (const range of node.data.matchAll(/[\d.,]+[\s\u00a0]to[\s\u00a0][+-]?\d[\d.,]*/g)) {
      const span = document.createRange();
      span.setStart(node, range.index);
      span.setEnd(node, range.index + range[0].length);
      const lines = new Set([...span.getClientRects()].map((box) => Math.round(box.top)));
      if (lines.size > 1) faults.push(`over ${lines.size} lines: ${range[0]}`);
    }
  }
  return [...new Set(faults)];
})();
