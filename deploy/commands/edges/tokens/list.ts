import { isRecord } from '../../../../shared/config/record.ts'
import { defineCommand } from '../../../command-line.ts'
import { StartError } from '../../../start-errors.ts'
import { adminOptions } from '../options.ts'

/** `outport edges tokens list` */
export const list = defineCommand({
  name: 'edges tokens list',
  summary: 'the join tokens of the last day, without their secrets, and which edge each made',
  options: adminOptions,
  async run(options) {
    const { withAdminApi } = await import('../../../admin-api.ts')
    const { formatColumns } = await import('../table.ts')
    return withAdminApi(options, async (api) => {
      const { text, json } = await api.call('/edges/tokens')
      if (!Array.isArray(json)) throw new StartError('the primary does not list its join tokens')
      if (options.json) process.stdout.write(`${text.trimEnd()}\n`)
      else if (json.length > 0)
        process.stdout.write(
          formatColumns([
            ['ID', 'NAME', 'STATE', 'PROJECTS', 'EXPIRES', 'EDGE'],
            ...(json as unknown[]).map(rowOf),
          ]),
        )
      else process.stderr.write("there is no join token: 'outport edges token' makes one\n")
      return 0
    })
  },
})

function rowOf(value: unknown): readonly string[] {
  const fields = isRecord(value) ? value : {}
  const text = (name: string) => {
    const field = fields[name]
    return typeof field === 'string' ? field : ''
  }
  const { scope } = fields
  const projects = Array.isArray(scope) ? scope.join(',') : 'all'
  const [edge, expires] = [text('edge_id'), text('expires_at')]
  const isOver = Date.parse(expires) <= Date.now()
  const state = edge !== '' ? 'used' : isOver ? 'expired' : 'open'
  return [text('id'), text('name'), state, projects, expires, edge]
}
