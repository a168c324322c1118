import { onOneLine } from '../../one-line.ts'
import { hostname } from 'node:os'
import { parseJoinToken, type JoinToken } from '../../../shared/replication/enrolment.ts'
import { defineCommand } from '../../command-line.ts'
import { readSecret } from '../../secret-input.ts'
import { StartError } from '../../start-errors.ts'
import { configOptions } from '../config-options.ts'
import { primaryOptions } from '../primary-options.ts'

/** `outport edge join` */
export const join = defineCommand({
  name: 'edge join',
  summary: 'make this data folder an edge of a primary, by a join token',
  words: ['URL'],
  options: {
    'token-file': {
      type: 'string',
      value: 'FILE',
      help: 'the file that holds the join token; else it is piped in, or typed',
    },
    name: {
      type: 'string',
      value: 'NAME',
      help: "what this machine is called, for the primary's audit log (default its host name); the edge is called as the token says",
    },
    data: configOptions.data,
    ...primaryOptions,
    config: configOptions.config,
    replace: { type: 'boolean', help: 'take the place of the identity that the data folder has' },
  },
  notes: `URL is the primary's, as clients type it. 'outport edges token' makes the token, which counts once and for 15 minutes. A join that
was cut short is run again with the same token. The key is made here and stays here, in DIR/edge/identity.`,
  async run(options, [text = '']) {
    // Loaded only now: the help needs none of it.
    const { createPrimaryClient, parsePrimaryUrl, readPrimaryCa } =
      await import('../../primary-client.ts')
    const { loadOutportConfig } = await import('../../programs.ts')
    const { joinPrimary, refuseJoined } = await import('../../join-primary.ts')
    const insecureHttp = options['insecure-http']
    const url = parsePrimaryUrl(text, { what: 'URL', insecureHttp })
    const { data, edge: configured } = loadOutportConfig({
      config: options.config,
      flags: { data: options.data },
    })
    if (!options.replace) refuseJoined(data)
    const ca = await readPrimaryCa(options.ca)
    const token = parseToken(
      await readSecret({
        file: options['token-file'],
        question: 'Join token: ',
        missing:
          "there is no join token: pipe it in, or name its file with --token-file; 'outport edges token' makes one",
      }),
    )
    const client = createPrimaryClient({
      url,
      ca: ca ?? (await readPrimaryCa(configured.primary.ca)),
      outbound: configured.outbound,
    })
    try {
      const edge = await joinPrimary({
        url,
        token,
        name: options.name ?? ownName(),
        data,
        ca,
        insecureHttp,
        replace: options.replace,
        client,
      })
      process.stdout.write(
        `Joined ${url.origin} as the edge '${edge.id}' (${onOneLine(edge.name)}). Start it, or restart it:\n` +
          `  outport edge${flagOf('config', options.config)} --data ${quote(options.data ?? data)}\n`,
      )
      return 0
    } finally {
      client.close()
    }
  },
})

function parseToken(text: string): JoinToken {
  try {
    return parseJoinToken(text)
  } catch (cause) {
    throw new StartError(cause instanceof Error ? cause.message : String(cause), { cause })
  }
}

/** The host name, as far as names may look like it. */
function ownName(): string {
  const name = hostname()
    .replaceAll(/[^A-Za-z0-9._-]+/g, '-')
    .slice(0, 63)
    .replaceAll(/^[._-]+|[._-]+$/g, '')
  return name === '' ? 'edge' : name
}

function flagOf(name: string, value: string | undefined): string {
  return value === undefined ? '' : ` --${name} ${quote(value)}`
}

/** As a shell takes it for one word. */
function quote(text: string): string {
  return /^[\w@%+=:,./-]+$/.test(text) ? text : `'${text.replaceAll("'", `'\\''`)}'`
}
