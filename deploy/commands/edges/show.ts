import { defineCommand } from '../../command-line.ts'
import { adminOptions, edgePath } from './options.ts'

/** `outport edges show` */
export const show = defineCommand({
  name: 'edges show',
  summary: 'all that a primary knows of one edge',
  words: ['ID'],
  options: adminOptions,
  async run(options, [id = '']) {
    const { readEdge, withAdminApi } = await import('../../admin-api.ts')
    const { formatEdge } = await import('./table.ts')
    return withAdminApi(options, async (api) => {
      const { path, absent } = edgePath(id)
      const { text, json } = await api.call(path, { absent })
      process.stdout.write(options.json ? `${text.trimEnd()}\n` : formatEdge(readEdge(json)))
      return 0
    })
  },
})
