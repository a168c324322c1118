import { parseDuration } from '../../../shared/config/units.ts'
import { defineCommand, UsageError } from '../../command-line.ts'
import { StartError } from '../../start-errors.ts'
import { adminOptions, edgeOptions, parseLabels, parseScope } from './options.ts'

/** A token counts for 15 minutes at most (DESIGN §9). */
const longestMs = 900_000

/** `outport edges token` */
export const token = defineCommand({
  name: 'edges token',
  summary: 'make a join token, by which one machine becomes an edge',
  options: {
    ...adminOptions,
    name: { type: 'string', value: 'NAME', help: 'what the edge shall be called' },
    ...edgeOptions,
    'accept-people': {
      type: 'boolean',
      help: 'people may log in through the edge, which then sees their passwords; without, robots alone',
    },
    expires: {
      type: 'string',
      value: 'DURATION',
      help: 'how long the token counts, 15m at most (default 15m)',
    },
  },
  notes: `Prints the token alone on standard output, and what to do with it on standard error:
  outport edges token --name rack-7 --all-projects > token`,
  async run(options) {
    if (options.name === undefined) throw new UsageError('edges token needs a name: --name NAME')
    const scope = parseScope(options)
    if (scope === undefined) {
      throw new UsageError(
        'edges token needs to know what the edge may read: --scope PROJECT, or --all-projects',
      )
    }
    const labels = parseLabels(options.label)
    const expiresIn = parseExpiry(options.expires)
    const { name, site, region } = options
    const { defaultPrimary, withAdminApi } = await import('../../admin-api.ts')
    return withAdminApi(options, async (api) => {
      const { text, json } = await api.call('/edges/tokens', {
        method: 'POST',
        body: {
          name,
          scope,
          ...(site !== undefined && { site }),
          ...(region !== undefined && { region }),
          ...(options.label.length > 0 && { labels }),
          ...(options['accept-people'] && { accept_people: true }),
          ...(expiresIn !== undefined && { expires_in: expiresIn }),
        },
      })
      const made = readToken(json)
      process.stdout.write(`${options.json ? text.trimEnd() : made.token}\n`)
      process.stderr.write(
        `The token counts once, until ${made.expiresAt}. On the machine of the edge, type\n` +
          `  outport edge join ${options.primary ?? defaultPrimary}\n` +
          `with the primary's URL as that machine reaches it, and give it the token when it asks.\n`,
      )
      return 0
    })
  },
})

/** @returns seconds */
function parseExpiry(text: string | undefined): number | undefined {
  if (text === undefined) return undefined
  const ms = parseDuration(text) ?? 0
  if (ms >= 1000 && ms <= longestMs) return Math.floor(ms / 1000)
  throw new UsageError(`--expires must be from 1s to 15m, as in 10m, not '${text}'`)
}

function readToken(json: unknown): { readonly token: string; readonly expiresAt: string } {
  if (typeof json === 'object' && json !== null && 'token' in json && 'expires_at' in json) {
    const { token: made, expires_at: expiresAt } = json
    // It is printed as it is, into a file perhaps.
    if (typeof made === 'string' && /^[!-~]+$/.test(made))
      return { token: made, expiresAt: typeof expiresAt === 'string' ? expiresAt : 'its end' }
  }
  throw new StartError('the primary made a token and does not show it: check its version')
}
