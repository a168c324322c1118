import { defineCommand } from '../../../command-line.ts'
import { printAnswer } from '../change.ts'
import { adminOptions } from '../options.ts'

/** `outport edges tokens remove` */
export const remove = defineCommand({
  name: 'edges tokens remove',
  summary: 'take a join token back; the edge that it made stays',
  words: ['ID'],
  options: adminOptions,
  async run(options, [id = '']) {
    const { withAdminApi } = await import('../../../admin-api.ts')
    return withAdminApi(options, async (api) => {
      const { text } = await api.call(`/edges/tokens/${encodeURIComponent(id)}`, {
        method: 'DELETE',
        absent: `there is no join token '${id}' at this primary: 'outport edges tokens list' shows them`,
      })
      printAnswer(text, {
        json: options.json,
        done: `The join token '${id}' makes no edge any more.`,
      })
      return 0
    })
  },
})
