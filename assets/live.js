// A proof that can be changed and run: under a cell of algebra, in the ledger, on its own page.
// Nothing is asked for before a reader opens one; then Python is loaded once, in a worker.
(() => {
  const here = new URL(".", document.currentScript.src);
  const live = new URL("../live/", here);
  const LONG = 60; // seconds
  const STOPPED = "Stopped. The next run loads Python again.";

  const make = (tag, properties = {}, ...children) => {
    const element = Object.assign(document.createElement(tag), properties);
    element.append(...children);
    return element;
  };

  class Refused extends Error {} // what a reader is told

  const elsewhere = () => {
    const colab = document.querySelector('a[href*="//colab."]')?.href;
    return colab ? [" Or ", make("a", { href: colab }, "open the page in Colab"), "."] : [];
  };
  const refuse = (text) => Object.assign(new Refused(text), { links: elsewhere() });

  // The one Python of a page.
  const python = {
    worker: null,
    ready: null,
    asked: 0,
    started: 0,
    waiting: new Map(),
    load() {
      if (this.ready) return this.ready;
      const ready = this.start(this.started);
      this.ready = ready;
      ready.catch(() => this.ready === ready && this.stop()); // the next run tries again
      return ready;
    },
    async start(started) {
      if (location.protocol === "file:")
        throw refuse(
          "Python cannot be loaded by a page that was opened from disk. " +
            "Run make live once, then make book, which serves the book on http://127.0.0.1:8000.",
        );
      const made = await fetch(new URL("made.json", live)).catch(() => ({ ok: false }));
      if (!made.ok)
        throw refuse(
          "This copy of the book was built without Python in its pages: " +
            "make live, before make book, puts it there.",
        );
      const { packages } = await made.json();
      if (started !== this.started) throw new Refused(STOPPED);
      this.worker = new Worker(new URL("live_worker.js", here), { type: "module" });
      return new Promise((resolve, reject) => {
        this.waiting.set("ready", { resolve, reject });
        this.worker.onerror = (event) => reject(refuse(`Python did not load: ${event.message}.`));
        this.worker.onmessage = ({ data: { id, failed, ...answer } }) => {
          const { resolve, reject } = this.waiting.get(id);
          this.waiting.delete(id);
          if (failed) reject(refuse(failed));
          else resolve(answer);
        };
        this.worker.postMessage({ id: "ready", live: live.href, packages });
      });
    },
    async run(setup, source) {
      await this.load();
      return new Promise((resolve, reject) => {
        const id = ++this.asked;
        this.waiting.set(id, { resolve, reject });
        this.worker.postMessage({ id, setup, source });
      });
    },
    stop() {
      this.worker?.terminate();
      for (const { reject } of this.waiting.values()) reject(new Refused(STOPPED));
      this.waiting.clear();
      this.started++;
      this.worker = this.ready = null;
    },
  };

  const script = (name) =>
    new Promise((resolve, reject) => {
      document.head.append(
        make("script", { src: new URL(name, here), onload: resolve, onerror: reject }),
      );
    });

  class Control {
    constructor(place, page, number) {
      this.page = page;
      this.name = place.dataset.cell;
      this.cell = page.cells[this.name];
      this.runs = 0;
      const open = "open" in place.dataset;
      const id = `dpo-live-${number}`;
      this.toggle = make("button", { type: "button" }, "Run and change this proof");
      this.toggle.setAttribute("aria-expanded", "false");
      this.toggle.setAttribute("aria-controls", id);
      this.toggle.addEventListener("click", () => this.show(this.panel.hidden));
      const bar = make("p", { className: "dpo-live-bar" });
      if (!open) bar.append(this.toggle);
      const edits = (this.cell.edits ?? []).map((edit) => this.suggest(edit));
      if (edits.length) bar.append(make("span", {}, open ? "Fill in: " : "or try: "), ...edits);
      this.build(id, open ? "Your claim" : "The proof");
      place.append(bar, this.panel);
      place.hidden = false;
      if (open) this.panel.hidden = false;
      const which = page.proofs ? this.name.replace("prove_", "").replaceAll("_", " ") : number + 1;
      this.toggle.append(make("span", { className: "visually-hidden" }, `, ${which}`));
    }

    suggest([label, before, after]) {
      const link = make("button", { type: "button", className: "dpo-live-edit" }, label);
      link.addEventListener("click", async () => {
        if (!(await this.show(true, false))) return;
        this.area.value = before ? this.source.replace(before, after) : after;
        this.fit();
        if (before) this.point(this.source.indexOf(before), after.length);
        this.run();
      });
      return link;
    }

    // Show what was changed; a phone would bring up its keyboard.
    point(start, length) {
      if (!matchMedia("(hover: hover)").matches) return;
      this.area.focus();
      this.area.setSelectionRange(start, start + length);
    }

    build(id, what) {
      const button = (text, act) => {
        const made = make("button", { type: "button" }, text);
        made.addEventListener("click", act);
        return made;
      };
      this.area = make("textarea", { id: `${id}-area`, spellcheck: false, autocomplete: "off" });
      this.area.setAttribute("autocapitalize", "off");
      this.area.wrap = "off";
      this.area.addEventListener("keydown", (event) => this.key(event));
      this.go = button("Run", () => this.run());
      this.halt = button("Stop", () => this.stop());
      this.halt.disabled = true;
      this.status = make("p", { className: "dpo-live-status" });
      this.status.setAttribute("role", "status");
      this.printed = make("pre", { hidden: true, tabIndex: 0 });
      this.printed.setAttribute("aria-label", "What the cell printed");
      this.panel = make(
        "div",
        { id, className: "dpo-live-panel", hidden: true },
        make("label", { htmlFor: this.area.id }, `${what} in Python; Ctrl+Enter runs it`),
        this.area,
        make("p", { className: "dpo-live-buttons" }, this.go, button("Reset", () => this.reset()),
          this.halt),
        this.status,
        this.printed,
      );
      this.panel.addEventListener("keydown", (event) => {
        if (event.key !== "Escape" || !this.toggle.isConnected) return;
        this.show(false);
        this.toggle.focus();
      });
      if (this.cell.source !== undefined) this.take(this.page, this.cell);
    }

    // What is to be run, where the page has it; the ledger's comes with the first click.
    take(page, cell) {
      this.setup = cell.setup.map((place) => page.setup[place]).join("\n");
      this.source = cell.source;
      this.reset(false);
    }

    async show(open, load = true) {
      if (open && this.source === undefined) {
        if (!window.dpoLiveProofs) await script("live_proofs.js");
        this.take(window.dpoLiveProofs, window.dpoLiveProofs.cells[this.name]);
      }
      this.panel.hidden = !open;
      this.toggle.setAttribute("aria-expanded", String(open));
      if (!open) return false;
      this.fit();
      if (load) {
        this.area.focus();
        if (this.runs === 0) this.load();
      }
      return true;
    }

    fit() {
      this.area.rows = Math.min(30, Math.max(6, this.area.value.split("\n").length + 1));
    }

    reset(focus = true) {
      this.area.value = this.source;
      this.fit();
      if (focus) this.area.focus();
    }

    key(event) {
      if (event.key !== "Enter" || !(event.ctrlKey || event.metaKey)) return;
      event.preventDefault();
      this.run();
    }

    say(text, verdict = "", more = []) {
      this.status.dataset.verdict = verdict;
      this.status.replaceChildren(text, ...more);
    }

    loading() {
      if (python.worker === null || python.waiting.has("ready"))
        this.say("Loading Python (21 MB, once a page) …");
    }

    // While it is loaded a reader may type.
    async load() {
      this.loading();
      const run = this.runs;
      try {
        await python.load();
        if (run === this.runs) this.say("Ready: change something, and run it.");
      } catch (error) {
        if (run === this.runs) this.fail(error);
      }
    }

    async run() {
      const run = ++this.runs;
      const source = this.area.value;
      this.printed.hidden = true;
      this.halt.disabled = false;
      this.loading();
      let timer;
      try {
        await python.load();
        if (run !== this.runs) return;
        this.say("Running …");
        timer = setTimeout(
          () => this.say(`Still running after ${LONG} seconds; Stop ends it.`),
          LONG * 1000,
        );
        const { word, sentence, printed } = await python.run(this.setup, source);
        if (run !== this.runs) return;
        const line = /\bline (\d+)/.exec(word === "proved" ? "" : sentence);
        const code = line && source.split("\n")[line[1] - 1]?.trim();
        this.say(sentence, word, code ? [make("br"), make("code", {}, code)] : []);
        this.printed.textContent = printed;
        this.printed.hidden = !printed;
      } catch (error) {
        if (run === this.runs) this.fail(error);
      } finally {
        clearTimeout(timer);
        if (run === this.runs) this.halt.disabled = true;
      }
    }

    fail(error) {
      const text = error instanceof Refused ? error.message : String(error);
      this.say(text, text === STOPPED ? "" : "error", error.links ?? []);
    }

    stop() {
      python.stop();
      this.area.focus();
    }
  }

  addEventListener("DOMContentLoaded", () => {
    const data = document.querySelector("script.dpo-live-data");
    if (!data) return;
    const page = JSON.parse(data.textContent);
    document
      .querySelectorAll(".dpo-live")
      .forEach((place, number) => new Control(place, page, number));
  });
})();
