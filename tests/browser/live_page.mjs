// Shows a live page without a JupyterLab: first of a run that measures no validation loss, then of one that does.
//
//   node live_page.mjs CHROMIUM PAGE FOLDER
//
// PAGE is the page's HTML. Prints one line of JSON: what is seen of the validation loss. A screenshot goes into FOLDER.
import { readFileSync } from "node:fs";
import { launch } from "./notebook.mjs";

const [executablePath, path, folder] = process.argv.slice(2);
const placed = { "@TOKEN@": "ours", "@ADDRESS@": "runs/a/", "@FOLDER@": "runs/a" };
const html = readFileSync(path, "utf8").replace(/@[A-Z]+@/g, (place) => placed[place]);
const config = `<script id="jupyter-config-data" type="application/json">{"baseUrl": "/"}</script>`;
const losses = Array.from({ length: 200 }, (_, i) => [i + 1, 0.2 + 0.8 / (1 + i / 20)]);
const state = { token: "ours", state: "running", message: "", step: 200, steps: 400, epoch: 1, epochs: 2, lr: 1e-3, loss: 0.27,
  images_per_second: 100, seconds_left: 10, seconds: 10, grad_norm: 0.1, curve: losses, validation: [],
  rate: losses.map(([step]) => [step, 1e-3]), samples: null, samples_title: "" };
const measured = { ...state, validation: [[50, 0.5], [100, null], [150, 0.1], [200, 0.05]] };

const browser = await launch(executablePath);
const page = await browser.newPage({ viewport: { width: 1000, height: 600 } });
const errors = [];
page.on("pageerror", (error) => errors.push(error.message));
let now = state;
await page.route("**/*", (route) => (route.request().url().includes("live.json")
  ? route.fulfill({ json: now }) : route.fulfill({ contentType: "text/html", body: `<meta charset="utf-8">${config}${html}` })));
await page.goto("http://live.test/files/page.html");
const look = async () => ({
  visible: await page.locator("#held").isVisible() && await page.locator("#held-label").isVisible(),
  figure: await page.locator("#validation").textContent(),
  dots: await page.locator("#loss-chart .measured").count(),
  // A path for each piece without a gap.
  pieces: (await page.locator("#loss-chart .held").getAttribute("d")).split("M").length - 1,
  lowest: await page.locator("#loss-chart text").evaluateAll((texts) => Math.min(...texts.map((t) => +t.textContent).filter((y) => y > 0))),
});
await page.getByText("training", { exact: true }).waitFor();
const without = await look();
now = measured;
await page.locator("#held").waitFor();
const { x, y, width } = await page.locator("#loss-chart").boundingBox();
await page.mouse.move(x + 46 + (width - 58) * 140 / 400, y + 50);
const pointed = await page.locator("#held-label").textContent();
await page.screenshot({ path: `${folder}/live-validation.png` });
console.log(JSON.stringify({ errors, without, with: await look(), pointed }));
await browser.close();
