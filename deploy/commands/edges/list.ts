import { defineCommand } from '../../command-line.ts'
import { adminOptions } from './options.ts'

/** `outport edges list` */
export const list = defineCommand({
  name: 'edges list',
  summary: 'all edges of a primary, and their state',
  options: adminOptions,
  async run(options) {
    const { readEdge, withAdminApi } = await import('../../admin-api.ts')
    const { formatEdges } = await import('./table.ts')
    return withAdminApi(options, async (api) => {
      const edges = await api.list('/edges')
      if (options.json) process.stdout.write(`${JSON.stringify(edges)}\n`)
      else if (edges.length > 0) process.stdout.write(formatEdges(edges.map(readEdge)))
      else process.stderr.write("there is no edge yet: 'outport edges token' invites one\n")
      return 0
    })
  },
})
