/* A second peer: libmodbus' server, on TCP with many clients or on a serial line.

       libmodbus_server tcp            prints its port
       libmodbus_server rtu PATH UNIT  prints 0

   Then it prints each write as it was received, in hexadecimal from the function code on. 100 coils and inputs, 200
   registers; holding and input registers hold their address, inputs are on where the address is odd. What is beyond
   is exception 2. */
#include <errno.h>
#include <modbus.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/select.h>
#include <sys/socket.h>
#include <unistd.h>

static modbus_mapping_t *mapping;
static int crc; /* octets behind the PDU */

static void answer(modbus_t *ctx, const uint8_t *query, int length) {
    int at = modbus_get_header_length(ctx), end = length - crc;
    int function = query[at];
    modbus_reply(ctx, query, length, mapping);
    if (function == 5 || function == 6 || function == 15 || function == 16) {
        for (; at < end; at++)
            printf("%02x", query[at]);
        printf("\n");
        fflush(stdout);
    }
}

static int serve_tcp(modbus_t *ctx) {
    struct sockaddr_in address;
    socklen_t size = sizeof address;
    fd_set all, ready;
    int listening = modbus_tcp_listen(ctx, 5), highest = listening;
    uint8_t query[MODBUS_TCP_MAX_ADU_LENGTH];
    if (listening < 0 || getsockname(listening, (struct sockaddr *)&address, &size) < 0)
        return 1;
    printf("%d\n", ntohs(address.sin_port));
    fflush(stdout);
    FD_ZERO(&all);
    FD_SET(listening, &all);
    for (;;) {
        ready = all;
        if (select(highest + 1, &ready, NULL, NULL, NULL) < 0)
            return 1;
        for (int fd = 0; fd <= highest; fd++) {
            if (!FD_ISSET(fd, &ready))
                continue;
            if (fd == listening) {
                int client = accept(listening, NULL, NULL);
                FD_SET(client, &all);
                highest = client > highest ? client : highest;
                continue;
            }
            modbus_set_socket(ctx, fd);
            int length = modbus_receive(ctx, query);
            if (length > 0) {
                answer(ctx, query, length);
            } else if (length < 0) {
                close(fd);
                FD_CLR(fd, &all);
            }
        }
    }
}

static int serve_rtu(modbus_t *ctx, int unit) {
    uint8_t query[MODBUS_RTU_MAX_ADU_LENGTH];
    if (modbus_set_slave(ctx, unit) < 0 || modbus_connect(ctx) < 0)
        return 1;
    printf("0\n");
    fflush(stdout);
    for (;;) {
        int length = modbus_receive(ctx, query);
        if (length > 0)
            answer(ctx, query, length);
        else if (length < 0 && errno != EMBBADCRC && errno != ETIMEDOUT)
            return 1;
    }
}

int main(int argc, char **argv) {
    int rtu = argc == 4 && strcmp(argv[1], "rtu") == 0;
    modbus_t *ctx = rtu ? modbus_new_rtu(argv[2], 115200, 'N', 8, 1) : modbus_new_tcp("127.0.0.1", 0);
    mapping = modbus_mapping_new(100, 100, 200, 200);
    if (ctx == NULL || mapping == NULL)
        return 1;
    crc = rtu ? 2 : 0;
    for (int at = 0; at < 200; at++)
        mapping->tab_registers[at] = mapping->tab_input_registers[at] = at;
    for (int at = 0; at < 100; at++)
        mapping->tab_input_bits[at] = at % 2;
    return rtu ? serve_rtu(ctx, atoi(argv[3])) : serve_tcp(ctx);
}
