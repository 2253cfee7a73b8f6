// What a page with `Live` does so that it shows no older value after a newer one (see order.py), and overwrites no field
// that is being typed in by its own echo (see echo.py). How this travels is in docs/wire.md.
// It runs inside a Datastar expression, where a lone `$` is the root of all signals. Each statement ends with `;`:
// the lines are joined.
window.faststate ??= (() => {
  const root = $, tab = crypto.getRandomValues(new Uint32Array(3)).join('.'), quiet = 3000;
  // What answers have shown since the stream was last opened, for each label: the `newest` number, `since` when requests
  // count, and a tree of `marks`: the number and the time of what stands in the page (a fragment is a leaf `#name`). The
  // time is `now`, which counts what the page has taken in: each action sends it, and the answer says it again as
  // `after`. What was taken in before the action is older than its answer whatever the numbers are.
  const none = () => Object.create(null), tracks = none();
  let now = 0, tries = 0;
  const restart = (label, since) => tracks[label] = {since, newest: 0, marks: none()};
  // Number 0 is a deletion, after which numbers begin again.
  const isNewer = (mark, answer) =>
    mark.at > answer.after && (mark.number > answer.number || (!mark.number && answer.number > 0));
  const isObject = value => value && typeof value === 'object' && !Array.isArray(value);
  // Returns what is newer than the answer below a place in the page, undefined if nothing is; forgets the other marks.
  const newerBelow = (marks, page, answer) => {
    const result = {};
    for (const key in marks) {
      const mark = marks[key], here = () => page()[key];
      const value = isNewer(mark, answer) ? here() : newerBelow(mark.below, here, answer);
      if (value === undefined) delete marks[key];
      else result[key] = value;
    }
    return Object.keys(result).length ? result : undefined;
  };
  // Takes out of an answer's patch what the page holds newer, and marks the rest.
  const sift = (patch, marks, page, answer) => {
    for (const [key, value] of Object.entries(patch)) {
      const mark = marks[key] ??= {below: none()};
      if (isNewer(mark, answer)) delete patch[key];
      else if (isObject(value)) sift(value, mark.below, () => page()[key], answer);
      else {
        // Numbers have begun again: what was asked before is from before that.
        if (mark.at <= answer.after && (!mark.number || mark.number >= answer.number)) {
          Object.assign(answer.track, {since: answer.after, newest: 0});
        }
        const newer = newerBelow(mark.below, () => page()[key], answer);
        if (newer) {
          patch[key] = JSON.parse(JSON.stringify(newer));
          page()[key] = '';
        }
        Object.assign(mark, {number: answer.number, at: now});
      }
    }
  };
  // Puts one frame of an answer in its place, and tells whether it comes too late for all.
  const isPast = raw => {
    const [label, number, after, fragment] = raw.order.split(' '), track = tracks[label] ?? restart(label, 0);
    if (after < track.since) return true;
    now++;
    const patch = fragment ? {['#' + fragment]: ''} : JSON.parse(raw.signals);
    sift(patch, track.marks, () => root, {number: +number, after: +after, track});
    track.newest = Math.max(track.newest, +number || Infinity);
    if (fragment) return !(('#' + fragment) in patch);
    raw.signals = JSON.stringify(patch);
  };
  // A stream's first frames are the truth, and answers to what was asked before come too late. But frames that left the
  // server before an answer that the page has shown are not listened to: another stream is opened, and answers are left
  // to that. After some times the lower number is believed: a store may have lost its last writes, or the state.
  const begin = (el, held) => {
    const isOutrun = ([label, number]) =>
      tracks[label]?.newest > number && (tracks[label].newest < Infinity || number > 0);
    now++;
    if (tries > 3 || !held.some(isOutrun)) {
      tries = 0;
      for (const [label] of held) restart(label, now);
      return;
    }
    for (const [label] of held) (tracks[label] ?? restart(label, 0)).since = Infinity;
    setTimeout(() => {
      for (const [label] of held) tracks[label].since = Math.min(tracks[label].since, now);
    }, quiet);
    el.deaf = true;
    el.stream.abort();
    setTimeout(() => {
      el.deaf = false;
      el.dispatchEvent(new CustomEvent('faststate-open'));
    }, tries++ && 50 << tries);
  };
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
      if (value === undefined || isObject(value)) continue;
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
    if (!type.startsWith('datastar-patch-')) return;
    if (raw.holds && !el.deaf) begin(el, raw.holds.split(' ').map(item => item.split('=')));
    if (el.deaf || (raw.order && isPast(raw))) {
      event.stopImmediatePropagation();
      return;
    }
    if (type !== 'datastar-patch-signals') return;
    own = raw.tab ?? own;
    const paths = Object.keys(fields).filter(p => 'held' in fields[p] || isBusy(fields[p]));
    if (paths.length) setAside(raw, paths);
    if (raw.typed) hear(raw.typed);
  }, true);
  return {
    tab, bound,
    after: () => now,
    order: () => tab + '-' + ++number,
    typed: (el, p) => {
      bound.add(p);
      const f = field(p);
      f.sent = ++number;
      f.open++;
      f.dirty = false;
      open.set(el, [...(open.get(el) ?? []), p]);
      return tab + '-' + number;
    }
  };
})()
