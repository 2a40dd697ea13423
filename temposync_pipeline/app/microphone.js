// The visitor's microphone to the server, and the video that comes back to the screen while it is made.
// `element`, `props`, `server` and `watch` are what a gr.HTML gives to its script.

const TYPE = 'video/mp4; codecs="avc1.640028, mp4a.40.2"';
const PIECE_SECONDS = 0.1;     // of sound, sent at once
const WAITING_SECONDS = 1.0;   // of sound that may wait for the server; then all but KEPT_SECONDS of it are dropped
const KEPT_SECONDS = 0.2;
const HURRY_SECONDS = 0.4;     // of video that waits to be shown: it is shown a little faster; from LEAP_SECONDS on, the rest is skipped
const LEAP_SECONDS = 1.0;
const WORKLET = `registerProcessor('microphone', class extends AudioWorkletProcessor {
  constructor() { super(); this.block = new Int16Array(1024); this.filled = 0; }
  process([[samples]]) {
    for (const sample of samples ?? []) {
      this.block[this.filled++] = Math.max(-32768, Math.min(32767, Math.round(32767 * sample)));
      if (this.filled === this.block.length) { this.port.postMessage(this.block.slice()); this.filled = 0; }
    }
    return true;
  }
});`;

const video = element.querySelector('video'), status = element.querySelector('.status');
const say = text => { status.textContent = text; };
let stop = () => {};

const toBase64 = bytes => {
  let text = '';
  for (let start = 0; start < bytes.length; start += 8192) text += String.fromCharCode(...bytes.subarray(start, start + 8192));
  return btoa(text);
};
const fromBase64 = text => Uint8Array.from(atob(text), letter => letter.charCodeAt(0));

/** Shows pieces of video as they come: {append(bytes), end()}. */
const player = () => {
  const source = new MediaSource(), waiting = [];
  let buffer = null, complete = false;
  const next = () => {
    if (!buffer || buffer.updating || source.readyState !== 'open') return;
    if (waiting.length) buffer.appendBuffer(waiting.shift());
    else if (complete) source.endOfStream();
  };
  const keepUp = () => {
    const { buffered } = video, behind = buffered.length ? buffered.end(buffered.length - 1) - video.currentTime : 0;
    if (behind > LEAP_SECONDS) video.currentTime += behind - PIECE_SECONDS;
    video.playbackRate = behind > HURRY_SECONDS && !complete ? 1.1 : 1;
  };
  source.addEventListener('sourceopen', () => {
    buffer = source.addSourceBuffer(TYPE);
    buffer.addEventListener('updateend', () => { keepUp(); next(); });
    next();
  }, { once: true });
  video.src = URL.createObjectURL(source);
  video.play().catch(() => {});
  return { append: bytes => { waiting.push(bytes); next(); }, end: () => { complete = true; next(); } };
};

/** The microphone's sound, int16, piece by piece: {rate, take(seconds), began, close()}; `take` empties it, but for what is too old. */
const microphone = async () => {
  const stream = await navigator.mediaDevices.getUserMedia({ audio: { channelCount: 1, echoCancellation: true } });
  const context = new AudioContext(), rate = context.sampleRate;
  const address = URL.createObjectURL(new Blob([WORKLET], { type: 'text/javascript' }));
  await context.audioWorklet.addModule(address);
  URL.revokeObjectURL(address);
  const node = new AudioWorkletNode(context, 'microphone', { numberOfOutputs: 0, channelCount: 1, channelCountMode: 'explicit' });
  const heard = { rate, began: 0, seconds: 0, dropped: 0 };
  let blocks = [];
  node.port.onmessage = ({ data }) => {
    heard.began ||= performance.now() - 1000 * data.length / rate;
    blocks.push(data);
    heard.seconds += data.length / rate;
    for (const least = heard.seconds > WAITING_SECONDS ? KEPT_SECONDS : Infinity; heard.seconds > least;) {
      const lost = blocks.shift().length / rate;
      heard.seconds -= lost;
      heard.dropped += lost;
    }
  };
  context.createMediaStreamSource(stream).connect(node);
  heard.take = () => {
    const piece = new Int16Array(blocks.reduce((total, block) => total + block.length, 0));
    blocks.reduce((start, block) => (piece.set(block, start), start + block.length), 0);
    blocks = [];
    heard.seconds = 0;
    return piece;
  };
  heard.close = () => { stream.getTracks().forEach(track => track.stop()); return context.close(); };
  return heard;
};

const pause = () => new Promise(resolve => setTimeout(resolve, 20));

/** Speaks until told to stop, or the server ends it. */
const converse = async token => {
  let stopped = false;
  stop = () => { stopped = true; };
  let heard;
  try {
    heard = await microphone();
  } catch (error) {
    say(`No microphone: ${error.message || error.name}`);
    await server.finish({ token });
    return;
  }
  const shown = player();
  const late = setInterval(() => {
    if (!heard.began || !video.currentTime) return;
    const seconds = (performance.now() - heard.began) / 1000 - heard.dropped - video.currentTime;
    element.dataset.late = seconds.toFixed(3);
    say(`You are seen ${seconds.toFixed(1)} s after you spoke.` +
        (heard.dropped ? ` The server is too slow to keep up: ${heard.dropped.toFixed(1)} s of sound were left out.` : ''));
  }, 500);
  say('Speak.');
  let reply = {};
  while (!stopped && !reply.ended && !reply.error) {
    if (heard.seconds < PIECE_SECONDS) { await pause(); continue; }
    const samples = toBase64(new Uint8Array(heard.take().buffer));
    reply = await server.hear({ token, rate: heard.rate, samples }) ?? { error: 'The server does not answer.' };
    if (reply.video) shown.append(fromBase64(reply.video));
  }
  heard.close();
  clearInterval(late);
  if (stopped) {
    const rest = await server.finish({ token });
    if (rest?.video) shown.append(fromBase64(rest.video));
  }
  shown.end();
  say(reply.error ?? reply.ended ?? 'Stopped.');
};

watch('value', () => { stop(); if (props.value) converse(props.value); });
document.addEventListener('temposync:stop', () => stop());
