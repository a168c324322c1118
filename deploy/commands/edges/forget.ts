import { defineCommand } from '../../command-line.ts'
import { printAnswer } from './change.ts'
import { adminOptions, edgePath } from './options.ts'

/** `outport edges forget` */
export const forget = defineCommand({
  name: 'edges forget',
  summary: 'take an edge that was revoked, or never joined, off the list, and free its name',
  words: ['ID'],
  options: {
    ...adminOptions,
    force: { type: 'boolean', help: 'revoke it first, whatever it may still be doing' },
  },
  async run(options, [id = '']) {
    const { withAdminApi } = await import('../../admin-api.ts')
    return withAdminApi(options, async (api) => {
      const { path, absent } = edgePath(id)
      if (options.force) await api.call(path, { method: 'DELETE', absent })
      const { text } = await api.call(`${path}/forget`, { method: 'POST', absent })
      printAnswer(text, { json: options.json, done: `The edge '${id}' is forgotten.` })
      return 0
    })
  },
})
