// The search runs in a worker, which browsers refuse to pages that were opened from disk. There a hidden frame,
// whose window has a worker's two functions, takes its place.
if (location.protocol === "file:") {
  window.Worker = class extends EventTarget {
    constructor(url) {
      super();
      this.waiting = [];
      const frame = document.createElement("iframe");
      frame.hidden = true;
      frame.srcdoc = "<!doctype html>";
      frame.addEventListener("load", () => this.start(frame.contentWindow, url), { once: true });
      document.body.append(frame);
    }
    start(scope, url) {
      scope.postMessage = (data) => this.dispatchEvent(new MessageEvent("message", { data }));
      scope.importScripts = (...urls) => Promise.all(urls.map((each) => this.load(scope, each)));
      this.load(scope, url).then(() => {
        this.scope = scope;
        this.waiting.splice(0).forEach((data) => this.postMessage(data));
      });
    }
    load(scope, url) {
      return new Promise((loaded, failed) => {
        const script = scope.document.createElement("script");
        Object.assign(script, { src: url, onload: loaded, onerror: failed });
        scope.document.head.append(script);
      });
    }
    postMessage(data) {
      if (this.scope) this.scope.dispatchEvent(new MessageEvent("message", { data }));
      else this.waiting.push(data);
    }
  };
}
