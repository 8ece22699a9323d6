// Unpacks the Chromium that the npm package @sparticuz/chromium carries: node unpack_browser.mjs PACKAGE FOLDER
import { spawnSync } from "node:child_process";
import { mkdirSync, readFileSync, renameSync, writeFileSync } from "node:fs";
import { resolve } from "node:path";
import { brotliDecompressSync } from "node:zlib";

const [from, to] = process.argv.slice(2);
const unpacked = (name) => brotliDecompressSync(readFileSync(`${from}/bin/${name}.br`));

mkdirSync(to, { recursive: true });
for (const name of ["al2023.tar", "fonts.tar", "swiftshader.tar"]) {
  const done = spawnSync("tar", ["--extract", "--directory", to], { input: unpacked(name) });
  if (done.status !== 0) throw new Error(`${name}: ${done.stderr}`);
}
writeFileSync(
  `${to}/fonts.conf`,
  `<fontconfig><dir>${resolve(to)}/fonts</dir><cachedir>${resolve(to)}/cache</cachedir></fontconfig>\n`,
);
writeFileSync(`${to}/chromium.partial`, unpacked("chromium"), { mode: 0o755 });
renameSync(`${to}/chromium.partial`, `${to}/chromium`); // last: whoever finds it finds all
