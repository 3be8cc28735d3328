// Builds the page into dist/: hashed names, no inline code, and each text file compressed beside it.
import { readdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { brotliCompressSync, constants, gzipSync } from "node:zlib";
import { defineConfig, type Plugin } from "vite";

const COMPRESSIBLE = /\.(?:js|css|html|svg)$/;

function precompressed(): Plugin {
  return {
    name: "precompressed",
    apply: "build",
    closeBundle() {
      const dist = join(import.meta.dirname, "dist");
      for (const entry of readdirSync(dist, { recursive: true, encoding: "utf8" })) {
        if (!COMPRESSIBLE.test(entry)) continue;
        const path = join(dist, entry);
        const body = readFileSync(path);
        const quality = { [constants.BROTLI_PARAM_QUALITY]: 11 };
        writeFileSync(`${path}.br`, brotliCompressSync(body, { params: quality }));
        writeFileSync(`${path}.gz`, gzipSync(body, { level: 9 }));
      }
    },
  };
}

export default defineConfig({
  base: "/",
  plugins: [precompressed()],
  build: {
    target: "es2022",
    // Browsers of 2024: `light-dark()` stays as it is.
    cssTarget: ["chrome123", "firefox120", "safari17.5"],
    // Inlined assets would need `data:` in the Content-Security-Policy.
    assetsInlineLimit: 0,
    modulePreload: { polyfill: false },
    chunkSizeWarningLimit: 600,
    reportCompressedSize: false,
    // What is bundled keeps its licences.
    license: { fileName: "licenses.md" },
  },
});
