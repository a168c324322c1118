import { isRecord } from '../../../shared/config/record.ts'
import { defineCommand } from '../../command-line.ts'
import { adminOptions } from '../edges/options.ts'

/** `outport keys list` */
export const list = defineCommand({
  name: 'keys list',
  summary: 'the signing keys and CAs of a primary, and whether its log is whole',
  options: adminOptions,
  async run(options) {
    const { withAdminApi } = await import('../../admin-api.ts')
    const { formatColumns } = await import('../edges/table.ts')
    return withAdminApi(options, async (api) => {
      const absent = 'this primary has no keys to show: check that --primary is an Outport primary'
      const { text, json } = await api.call('/keys', { absent })
      const epoch = (await api.call('/keys/epoch', { absent })).json
      if (options.json) process.stdout.write(`${text.trimEnd()}\n`)
      else process.stdout.write(formatColumns([head, ...rowsOf(json)]))
      const pending = (await api.call('/keys/pending', { absent })).json
      for (const said of [describeBehind(epoch), describePending(pending)])
        if (said !== undefined) process.stderr.write(said)
      return 0
    })
  },
})

const columns = ['purpose', 'state', 'creation_time', 'id', 'fingerprint'] as const
const head = ['PURPOSE', 'STATE', 'CREATED', 'ID', 'FINGERPRINT']

function rowsOf(value: unknown): readonly (readonly string[])[] {
  if (!Array.isArray(value)) return []
  return value.filter(isRecord).map((key) =>
    columns.map((column) => {
      const text = typeof key[column] === 'string' ? key[column] : ''
      return column === 'state' && key['offline'] === true ? `${text}, offline` : text
    }),
  )
}

/** What to do where a list waits for a root; undefined where none does. */
function describePending(value: unknown): string | undefined {
  if (!isRecord(value) || typeof value['payload'] !== 'string') return undefined
  return (
    `A list of keys waits for the root, which is kept offline: 'outport keys pending' shows it.\n` +
    `'outport keys sign --root FILE' signs it; see docs/keys.md.\n`
  )
}

/** What to do where the log is behind, for people; undefined where it is whole. */
function describeBehind(value: unknown): string | undefined {
  const behind = isRecord(value) ? value['behind'] : undefined
  if (!isRecord(value) || !isRecord(behind)) return undefined
  const place = ({ epoch, seq }: Readonly<Record<string, unknown>>) =>
    `event ${Number(seq)} of epoch ${Number(epoch)}`
  return (
    `The database is older than it was: the log ends at ${place(value)}, and was once at ${place(behind)}.\n` +
    `Edges are told nothing until 'outport keys accept-epoch' has it go on; see docs/keys.md.\n`
  )
}
