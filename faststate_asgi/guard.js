// What a page does so that no field that is being typed in is overwritten by its own echo. See echo.py and docs/wire.md.
// It runs inside a Datastar expression, where a lone `$` is the root of all signals. Each statement ends with `;`:
// the lines are joined.
window.faststate ??= (() => {
  const root = $, tab = crypto.getRandomValues(new Uint32Array(3)).join('.'), quiet = 3000;
  // For each field: the newest number `sent`, the newest one that the stream has brought (`seen`), how many requests
  // are `open`, whether something typed was not sent yet (`dirty`), the value that was set aside (`held`), and until
  // when to wait for the stream after the last answer.
  const bound = new Set(), fields = {}, open = new Map();
  let number = 0, own;
  const field = p => fields[p] ??= {sent: 0, seen: 0, open: 0, until: 0, dirty: false};
  const isTyping = f => f.dirty && document.activeElement === f.el;
  const isBusy = f => f.open > 0 || isTyping(f) || ((f.dirty || f.sent > f.seen) && Date.now() < f.until);
  const place = (object, p) => {
    const keys = p.split('.'), last = keys.pop();
    for (const key of keys) object = object?.[key];
    return [object, last];
  };
  const release = p => {
    const f = fields[p];
    if (!('held' in f) || isBusy(f)) return;
    const [object, key] = place(root, p), value = f.held;
    delete f.held;
    object[key] = value;
  };
  const later = p => {
    fields[p].until = Date.now() + quiet;
    setTimeout(release, quiet + 50, p);
  };
  const pathOf = el => {
    for (const key in el?.dataset ?? {}) {
      const p = key === 'bind' ? el.dataset[key] : key.startsWith('bind:') ? key.slice(5).split('__')[0] : '';
      if (bound.has(p)) return p;
    }
  };
  const setAside = (raw, paths) => {
    const patch = JSON.parse(raw.signals);
    for (const p of paths) {
      const [object, key] = place(patch, p), f = fields[p], value = object?.[key];
      if (value === undefined || (typeof value === 'object' && !Array.isArray(value))) continue;
      if (isBusy(f)) {
        f.held = value;
        delete object[key];
      } else delete f.held;
    }
    raw.signals = JSON.stringify(patch);
  };
  const hear = line => {
    const [p, tag, done] = line.split(' '), f = fields[p];
    if (f && tag === own && +done > f.seen) {
      f.seen = +done;
      release(p);
    }
  };
  document.addEventListener('input', event => {
    const p = pathOf(event.target);
    if (p) {
      Object.assign(field(p), {el: event.target, dirty: true});
      later(p);
    }
  }, true);
  document.addEventListener('focusout', event => {
    const p = pathOf(event.target);
    if (p in fields) later(p);
  }, true);
  // Capturing listeners run before the one of Datastar that applies the patch.
  document.addEventListener('datastar-fetch', event => {
    const {type, el, argsRaw: raw} = event.detail;
    if (type === 'finished') {
      const p = open.get(el)?.shift();
      if (p) {
        fields[p].open--;
        later(p);
      }
    }
    if (type !== 'datastar-patch-signals') return;
    own = raw.tab ?? own;
    const paths = Object.keys(fields).filter(p => 'held' in fields[p] || isBusy(fields[p]));
    if (paths.length) setAside(raw, paths);
    if (raw.typed) hear(raw.typed);
  }, true);
  return {
    tab, bound,
    order: () => tab + '-' + ++number,
    typed: (el, p) => {
      const f = field(p);
      f.sent = ++number;
      f.open++;
      f.dirty = false;
      open.set(el, [...(open.get(el) ?? []), p]);
      return tab + '-' + number;
    }
  };
})()
