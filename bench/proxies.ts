import { mkdir } from 'node:fs/promises'
import { join } from 'node:path'
import { runDistribution, runNginx } from './peers.ts'
import { clientCore } from './processes.ts'
import type { Server } from './servers.ts'

/**
 * The registry that all pull from: files under `root` of its folder, at the paths of their URLs, on the clients'
 * core. It answers `/v2/` too, which distribution asks for.
 */
export async function startOrigin(folder: string): Promise<Server> {
  await mkdir(join(folder, 'root'), { recursive: true })
  return runNginx(folder, {
    core: clientCore,
    http: (port) => `
  server {
    listen 127.0.0.1:${port}; root ${folder}/root;
    location = /v2/ { return 200; }
  }`,
  })
}

/**
 * nginx as one sets it up before a registry: what it fetches is kept, several clients of one blob wait for one
 * fetch, connections to the upstream are kept. It verifies nothing.
 * @param origins by the beginning of the paths that are asked for there
 */
export async function startNginxCache(
  folder: string,
  origins: Readonly<Record<string, URL>>,
): Promise<Server> {
  const named = Object.entries(origins).map(([path, { host }], i) => ({
    path,
    host,
    name: `u${i}`,
  }))
  const upstreams = named.map(
    ({ host, name }) => `upstream ${name} { server ${host}; keepalive 8; }`,
  )
  const locations = named.map(
    ({ path, name }) => `location ${path} {
      proxy_pass http://${name}; proxy_http_version 1.1; proxy_set_header Connection "";
      proxy_cache blobs; proxy_cache_valid 200 1h; proxy_cache_lock on;
    }`,
  )
  return runNginx(folder, {
    http: (port) => `
  ${upstreams.join('\n  ')}
  proxy_cache_path ${folder}/cache levels=1:2 keys_zone=blobs:16m inactive=1h use_temp_path=off;
  server {
    listen 127.0.0.1:${port};
    ${locations.join('\n    ')}
  }`,
  })
}

/** distribution as a pull-through cache of one origin. */
export async function startDistributionCache(folder: string, origin: URL): Promise<Server> {
  return runDistribution(folder, { more: `proxy: { remoteurl: '${origin.origin}' }` })
}
