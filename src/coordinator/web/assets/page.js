// Keeps an open page current over one event stream. The page works without it.
"use strict";
(() => {
  const live = document.getElementById("live");
  let source = null;

  // Makes `now` like `next`, leaving alone what is the same: focus and scrolling stay.
  function morph(now, next) {
    if (now.nodeType !== next.nodeType || now.nodeName !== next.nodeName || now.id !== next.id) {
      now.replaceWith(next);
      return;
    }
    if (now.nodeType !== Node.ELEMENT_NODE) {
      if (now.data !== next.data) now.data = next.data;
      return;
    }
    for (const { name } of [...now.attributes]) {
      const kept = name === "open" && now.nodeName === "DETAILS";
      if (!next.hasAttribute(name) && !kept) now.removeAttribute(name);
    }
    for (const { name, value } of next.attributes) {
      if (now.getAttribute(name) !== value) now.setAttribute(name, value);
    }
    if (now.nodeName === "TIME" && now.dateTime === next.dateTime) return;
    // A copy of the list: children move from one to the other on the way.
    const children = [...next.childNodes];
    children.forEach((child, n) => {
      if (now.childNodes[n]) morph(now.childNodes[n], child);
      else now.append(child);
    });
    while (now.childNodes.length > children.length) now.lastChild.remove();
  }

  function show({ part, html }) {
    const now = document.getElementById(part);
    if (!now) return;
    const next = document.createElement("div");
    next.id = part;
    next.className = "part";
    next.innerHTML = html; // from our own server, escaped there
    morph(now, next);
    ages();
  }

  function grow({ text }) {
    const lines = document.getElementById("lines");
    const follows = lines.scrollTop + lines.clientHeight >= lines.scrollHeight - 40;
    lines.append(text);
    lines.normalize();
    const node = lines.firstChild;
    if (node && node.data.length > 400000) node.data = node.data.slice(-300000);
    if (follows) lines.scrollTop = lines.scrollHeight;
  }

  function age(span) {
    const s = Math.max(0, Math.floor(span / 1000));
    if (s < 60) return s + "s";
    if (s < 3600) return Math.floor(s / 60) + "m";
    if (s < 172800) return Math.floor(s / 3600) + "h";
    return Math.floor(s / 86400) + "d";
  }

  function ages() {
    const now = Date.now();
    for (const time of document.querySelectorAll("time")) {
      const span = now - Date.parse(time.dateTime);
      const text = span < -999 ? "in " + age(-span) : age(span) + " ago";
      if (time.textContent !== text) time.textContent = text;
    }
  }

  function say(state, words) {
    if (live.dataset.state === state) return;
    live.dataset.state = state;
    live.textContent = words;
  }

  function open() {
    if (source || document.hidden) return;
    source = new EventSource(live.dataset.stream);
    source.onopen = () => say("live", "live");
    source.onerror = () => {
      // A browser gives up where it was refused: the session is over.
      if (source.readyState === EventSource.CLOSED) say("over", "stopped: load the page again");
      else say("lost", "not connected, trying again");
    };
    const on = (name, then) => source.addEventListener(name, (event) => {
      remember(event.lastEventId);
      then(JSON.parse(event.data));
    });
    on("part", show);
    on("log", grow);
    on("trouble", ({ why }) => (why ? say("lost", "out of date: " + why) : say("live", "live")));
  }

  // A stream that is opened anew goes on where the last one was.
  function remember(id) {
    if (!id) return;
    const [seen, byte] = id.split(".");
    const url = new URL(live.dataset.stream, location.href);
    url.searchParams.set("seen", seen);
    if (byte) url.searchParams.set("log", byte);
    live.dataset.stream = url.pathname + url.search;
  }

  function close() {
    if (source) source.close();
    source = null;
  }

  ages();
  setInterval(ages, 1000);
  const lines = document.getElementById("lines");
  if (lines) lines.scrollTop = lines.scrollHeight;
  const once = document.getElementById("once");
  if (once) once.submit();
  if (live && !new URLSearchParams(location.search).has("static")) {
    open();
    // Browsers allow few connections to one server: a hidden tab holds none.
    document.addEventListener("visibilitychange", () => (document.hidden ? close() : open()));
    window.addEventListener("pagehide", close);
    window.addEventListener("pageshow", open);
  }
})();
