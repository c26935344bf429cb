// --watch: is there a newer page on disk? A page opened from a file may not read files, but it may show itself in a
// frame. The frame's copy says its stamp, stops before it loads its data, and the page compares (main.js).
if (window.parent !== window && location.search.startsWith("?probe")) {
  parent.postMessage({ mrgGrpoStamp: document.querySelector("meta[name=stamp]").content }, "*");
  window.stop();
}
