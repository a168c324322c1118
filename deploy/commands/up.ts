import { defineCommand, UsageError } from '../command-line.ts'
import { keepCompiled } from '../compile-cache.ts'
import { configOptions } from './config-options.ts'

/** `outport up` */
export const up = defineCommand({
  name: 'up',
  summary: 'a primary and an edge on this machine, to try it',
  options: {
    ...configOptions,
    'primary-port': { type: 'string', value: 'N', help: "the primary's port (default 8080)" },
    'edge-port': { type: 'string', value: 'N', help: "the edge's port (default 8081)" },
    'mirror-port': { type: 'string', value: 'N', help: 'the port of docker.io (default 8082)' },
    host: {
      type: 'string',
      value: 'ADDRESS',
      help: 'the IP address to listen on (default 127.0.0.1); others are plain http, log-ins included, unless the configuration sets tls',
    },
    json: {
      type: 'boolean',
      help: 'print one line of JSON with the URLs once all are ready; npm prints a banner before it, unless started by: npm start --silent -- --json',
    },
  },
  notes: `A port of 0 is any free one. The password of admin is OUTPORT_ADMIN_PASSWORD (or the content of the file that
OUTPORT_ADMIN_PASSWORD_FILE names) at the first start; else a random one, kept in the data folder.`,
  async run(options) {
    const flags = {
      config: options.config,
      data: options.data,
      host: options.host,
      primaryPort: parsePort('primary-port', options['primary-port']),
      edgePort: parsePort('edge-port', options['edge-port']),
      mirrorPort: parsePort('mirror-port', options['mirror-port']),
    }
    // A configuration file may name another folder, which is known only when all is loaded.
    const data = flags.data ?? process.env.OUTPORT_DATA ?? './data'
    const isNamed = flags.data !== undefined || !(flags.config ?? process.env.OUTPORT_CONFIG)
    if (isNamed && !options.check) keepCompiled(data)
    // Loaded only now: the help and the refusals above need none of it.
    const { checkUp, supervisedCommand, up: runUp } = await import('../up.ts')
    if (options.check) return checkUp(flags)
    return runUp({
      ...flags,
      json: options.json,
      command: supervisedCommand,
      restartPauseMs: 100,
    })
  },
})

function parsePort(option: string, text: string | undefined): number | undefined {
  if (text === undefined) return undefined
  const port = /^\d{1,5}$/.test(text) ? Number(text) : NaN
  if (!(port <= 65535)) {
    throw new UsageError(`--${option} must be a port from 0 to 65535, not '${text}'`)
  }
  return port
}
