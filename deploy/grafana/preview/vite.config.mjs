import { defineConfig } from 'vite';
import react from '@vitejs/plugin-react';

const server = {
  host: '127.0.0.1',
  port: 5179,
  proxy: { '/prom': { target: process.env.PROM || 'http://127.0.0.1:9090', rewrite: (path) => path.replace(/^\/prom/, '') } },
};
export default defineConfig({ plugins: [react()], define: { 'process.env': {} }, server, preview: server, build: { minify: false } });
