"""How the page looks, and what it says in more than one place."""

import gradio as gr

from .studio import MAX_FACES

KEPT_SECONDS = 600
NOTICE = "**AI-generated.** Say so wherever you show the video. Uploads and videos are deleted after ten minutes."
LIFE_INFO = "Blinks, brows, small motions of the head; 0 = all but the lower face is still."
STOPPED = '<div class="status">Stopped.</div>'
FACES = [(str(index + 1), index) for index in range(MAX_FACES)]
CONSENT = "The person shown and the person heard agree to this video, or I am both of them."

# Gradio's own font, of which it ships a regular and a bold cut whole: nothing is fetched from elsewhere.
FONT = (gr.themes.LocalFont("Source Sans Pro", weights=(400, 700)), "system-ui", "sans-serif")
THEME = gr.themes.Default(primary_hue="teal", secondary_hue="teal", radius_size="lg", font=FONT)
CSS = """
.gradio-container { max-width: 1100px !important; margin: 0 auto !important; }
#voice .wrap, #new-voice .wrap { min-height: 0; padding: 12px 0; line-height: 1.3; }
#status, #dub-status, #timeline, #live, #status > div, #dub-status > div, #timeline > div, #live > div {
  padding: 0 !important; color: var(--body-text-color);
}
#live video { width: 100%; height: 420px; background: var(--background-fill-secondary); border-radius: 8px; }
.status { min-height: 48px; }
#status .error, #status .clear-status, #dub-status .error, #dub-status .clear-status { display: none; }
.bar { height: 6px; margin: 6px 0; border-radius: 3px; background: var(--border-color-primary); overflow: hidden; }
.bar div { height: 100%; border-radius: 3px; background: var(--primary-500); transition: width 0.3s; }
.track { position: relative; overflow: hidden; }
.playhead { position: absolute; left: -2px; top: 0; width: 2px; height: 96px; background: var(--body-text-color); }
footer { opacity: 0.6; }
"""
# A line that runs over the timeline while the video plays.
FOLLOW_VIDEO = """
const follow = () => {
  const video = document.querySelector('#video video'), line = element.querySelector('.playhead');
  if (line) line.style.left = video && video.duration ? `${100 * video.currentTime / video.duration}%` : '-2px';
  requestAnimationFrame(follow);
};
follow();
"""
